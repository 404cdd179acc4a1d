//! The node's wall clock is set while tenants are on: a day ahead, a day back, years. Times are judged by the
//! control plane's clock, carried on by the time since boot, so no verdict changes; nor does one when the
//! daemon is killed meanwhile and the control plane is away.
//!
//! The daemon alone has the wrong clock: see `WallClock`. A suspend can't be had in a test; daemon and
//! programs go by the time since boot, which a suspend is a part of.

use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use totoro_api::ticket::rfc3339;

use super::client::{Client, USERS_DOOR, Way, ample};
use super::{from, world};
use crate::lab::{CLIENT_V4_B, NODE_CLIENT_V4, Place, WallClock};
use crate::net::user;
use crate::story::bring_up::{run_node, serve};
use crate::story::frpc::{PATIENCE, Proxy};
use crate::story::{FRPS_PORT, World, within};

const DAY_S: i64 = 24 * 3_600;
/// How far off it is set, seconds.
const STEPS: [i64; 3] = [DAY_S, -DAY_S, 20 * 365 * DAY_S];
/// The longest that an end which is due may take.
const END: Duration = Duration::from_secs(60);
/// Of who is on all the time, and the first of those who come while the clock is off.
const PORTS: [u16; 2] = [20_080, 20_081];

/// Plays it.
///
/// # Errors
/// The clock moved a verdict, or was not moved at all.
pub fn play() -> Result<()> {
    let mut world = world(
        "clock",
        &[("port_reserve", "\"1s\""), ("port_cool", "\"1s\"")],
    )?;
    let clock = WallClock::new(world.lab.file("clock"))?;
    world.node.take().context("the daemon runs")?.stop();
    start(&mut world, &clock)?;

    let hour =
        json!({ "label": "hour", "limits": ample(), "expires_at": rfc3339(now_s()? + 3_600) });
    let tenant = world.invite_of(&hour)?;
    let proxies = [Proxy::new("web", "tcp", world.backend.tcp, PORTS[0])];
    let client = Client::of(&world, "hour", &tenant, Way::PLAIN, &proxies)?;
    let mut session = user::connect(world.lab.ns(Place::User), user::at(USERS_DOOR, PORTS[0])?)?;
    world
        .node_cli(&["ban", "add", CLIENT_V4_B, "--for", "1h"])?
        .ok()?;
    let mark = client.frpc.mark();

    for (off_s, port) in STEPS.into_iter().zip(PORTS[1]..) {
        clock.set(off_s)?;
        is_off(&world, off_s)?;
        Brief::start(&world, port)?.ends(&world)?;
        user::exchange(&mut session, b"still").context("who has an hour")?;
        is_banned(&world)?;
        println!("{off_s} s off: a login is taken, what ends ends, what does not goes on");
    }

    // Nobody is there to tell the time, and what the daemon knew went with it.
    clock.set(0)?;
    is_off(&world, 0)?;
    let brief = Brief::start(&world, PORTS[1] + 3)?;
    brief.shorten(&world, 10)?;
    world
        .control
        .take()
        .context("the control plane runs")?
        .stop();
    for off_s in [-DAY_S, DAY_S] {
        world.node.take().context("the daemon runs")?.kill();
        clock.set(off_s)?;
        start(&mut world, &clock)?;
        user::exchange(&mut session, b"still").context("who has an hour")?;
        is_banned(&world)?;
    }
    brief.ended()?;
    let said = client.frpc.log_after(mark);
    ensure!(!said.contains("try to connect"), "frpc was cut off: {said}");
    println!("killed, and started by a wrong clock without a control plane: the same");

    serve(&mut world)?;
    world.node_cli(&["ban", "remove", CLIENT_V4_B])?.ok()?;
    within(PATIENCE, || Ok(banned_can_connect(&world)?.then_some(())))
        .context("nobody gets in from there anyway")
}

/// Starts the daemon, by the wrong clock.
fn start(world: &mut World, clock: &WallClock) -> Result<()> {
    let mut command = world.node_command(&["run"]);
    clock.give(&mut command);
    run_node(world, command)
}

/// The daemon's clock is off, as it knows itself.
fn is_off(world: &World, off_s: i64) -> Result<()> {
    within(PATIENCE, || {
        let line = world.doctor_on("clock")?;
        let text = line["target"].as_str().unwrap_or_default();
        let told_ms: i64 = text.trim_end_matches(" ms").parse().context("a number")?;
        // Whichever way round it is told.
        let is_so = (told_ms.abs() - off_s.abs() * 1_000).abs() < 2_000;
        let warned = line["status"] == if off_s == 0 { "ok" } else { "warn" };
        ensure!(is_so && warned, "{line}");
        Ok(Some(()))
    })
    .with_context(|| format!("the daemon's clock is not {off_s} s off"))
}

/// Somebody who comes while the clock is off, and whose invite ends then.
struct Brief {
    client: Client,
    session: TcpStream,
}

impl Brief {
    /// They come, with a ticket of now, and are served.
    fn start(world: &World, port: u16) -> Result<Brief> {
        let proxies = [Proxy::new("web", "tcp", world.backend.tcp, port)];
        let client = Client::start(
            world,
            &format!("brief-{port}"),
            ample(),
            Way::PLAIN,
            &proxies,
        )?;
        let to = user::at(USERS_DOOR, port)?;
        let mut session = user::connect(world.lab.ns(Place::User), to)?;
        user::exchange(&mut session, b"here")?;
        Ok(Brief { client, session })
    }

    /// Their invite is to end so soon, and the kernel knows.
    fn shorten(&self, world: &World, in_s: i64) -> Result<()> {
        let path = format!("/nodes/invites/{}", self.client.invite);
        let end = json!({ "expires_at": rfc3339(now_s()? + in_s) });
        world.lender()?.patch::<Value>(&path, &end)?;
        within(PATIENCE, || {
            let rows = world.inspect("tenants")?;
            let ours = rows
                .iter()
                .find(|row| row["tenant"] == self.client.invite.as_str());
            Ok(ours
                .is_none_or(|row| !row["expires_in_s"].is_null())
                .then_some(()))
        })
        .context("the kernel does not know of the end")
    }

    fn ends(self, world: &World) -> Result<()> {
        self.shorten(world, 2)?;
        self.ended()
    }

    /// The end has come.
    fn ended(mut self) -> Result<()> {
        self.session.set_read_timeout(Some(END))?;
        let read = self.session.read(&mut [0; 1]);
        let waits = read
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        ensure!(
            !waits && !matches!(read, Ok(1)),
            "an invite outlives its end: {read:?}"
        );
        self.client.frpc.stop();
        Ok(())
    }
}

/// Nobody gets in from the address that is banned.
fn is_banned(world: &World) -> Result<()> {
    ensure!(!banned_can_connect(world)?, "the ban does not hold");
    Ok(())
}

fn banned_can_connect(world: &World) -> Result<bool> {
    let frps = user::at(NODE_CLIENT_V4, FRPS_PORT)?;
    let (client, wait) = (world.lab.ns(Place::Client), Duration::from_secs(1));
    client.run(|| {
        Ok(from(CLIENT_V4_B)?
            .connect_timeout(&frps.into(), wait)
            .is_ok())
    })
}

/// The right time, which the control plane has.
fn now_s() -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    i64::try_from(now.as_secs()).context("now")
}
