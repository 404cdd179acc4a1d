//! A client that asks for MPTCP, whose subflows no count sees and no destroy ends. To frps as its unit starts
//! it that is plain TCP; where a frps does speak MPTCP, the kernel lets nobody in that way.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use totoro_api::Reason;

use super::client::{Client, Way, ample};
use super::handmade::HandMade;
use super::world;
use crate::lab::{NODE_CLIENT_V4, Place};
use crate::net::user;
use crate::story::frpc::{PATIENCE, Proxy};
use crate::story::{FRPS_PORT, World, bring_up, within};

/// `IPPROTO_MPTCP` (include/uapi/linux/in.h).
const MPTCP: i32 = 262;

/// Plays it.
///
/// # Errors
/// A client is let in that must not be, or the other way round.
pub fn play() -> Result<()> {
    if let Err(error) = socket() {
        println!("skipped: this kernel has no MPTCP ({error:#})");
        return Ok(());
    }
    let mut world = world("multipath", &[])?;
    let asked = Counters::read(&world)?;
    let answer = login(&world, "plain")?;
    ensure!(
        answer["error"].as_str().unwrap_or_default().is_empty(),
        "{answer}"
    );
    let run_id = answer["run_id"].as_str().unwrap_or_default().to_owned();
    ensure!(!run_id.is_empty(), "{answer}");
    let fell_back = Counters::read(&world)?;
    ensure!(
        fell_back.asked == asked.asked + 1,
        "MPTCP was not asked for"
    );
    ensure!(
        fell_back.spoken == asked.spoken,
        "frps answered MPTCP by MPTCP"
    );
    println!("frps as its unit starts it: plain TCP, logged in");

    restart(&mut world)?;
    let before = world.refused(Reason::Unsupported)?;
    let said = login(&world, "refused");
    ensure!(said.is_err(), "logged in by MPTCP: {said:?}");
    let spoken = Counters::read(&world)?;
    ensure!(
        spoken.spoken > fell_back.spoken,
        "frps does not speak MPTCP"
    );
    let counted = within(PATIENCE, || {
        let now = world.refused(Reason::Unsupported)?;
        Ok((now > before).then_some(now - before))
    })
    .context("refused, and counted nowhere")?;
    let line = world.doctor_on("frps mptcp")?;
    ensure!(line["status"] == "fail", "doctor says {line}");
    println!("a frps that speaks it: ended, {counted} times `unsupported`; doctor says so");

    // Whoever does not ask for it comes in all the same.
    let proxies = [Proxy::new("web", "tcp", world.backend.tcp, 20_070)];
    let plain = Client::start(&world, "stock", ample(), Way::PLAIN, &proxies)?;
    plain.frpc.stop();
    println!("a stock frpc logs in there by plain TCP");
    Ok(())
}

/// What an invite's client is answered that comes by a connection which asks for MPTCP.
fn login(world: &World, name: &str) -> Result<Value> {
    let tenant = world.invite(name, ample())?;
    let ticket = world.resolve(&tenant.code)?.ticket;
    let frps = user::at(NODE_CLIENT_V4, FRPS_PORT)?;
    let hand = HandMade::over(world.lab.ns(Place::Client), || {
        let socket = socket()?;
        socket.connect(&frps.into()).context("connect to frps")?;
        Ok(TcpStream::from(socket))
    })?;
    hand.login(&json!({
        "version": "0.70.1", "user": tenant.invite.id, "privilege_key": ticket, "timestamp": 1,
        "pool_count": 1,
    }))
}

fn socket() -> Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::STREAM,
        Some(socket2::Protocol::from(MPTCP)),
    );
    socket.context("a MPTCP socket")
}

/// Starts frps anew as anybody would, without its unit's environment.
fn restart(world: &mut World) -> Result<()> {
    world.frps.take().context("frps runs")?.stop();
    bring_up::run_frps_with(world, [])
}

/// What the client's kernel has counted.
struct Counters {
    /// Connections that it asked for by MPTCP.
    asked: u64,
    /// Of those, answered by MPTCP.
    spoken: u64,
}

impl Counters {
    fn read(world: &World) -> Result<Counters> {
        let read = || Ok(std::fs::read_to_string("/proc/thread-self/net/netstat")?);
        let text = world.lab.ns(Place::Client).run(read)?;
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("MPTcpExt: "));
        let (names, values) = (
            lines.next().unwrap_or_default(),
            lines.next().unwrap_or_default(),
        );
        let value = |name: &str| -> Result<u64> {
            let mut both = names.split(' ').zip(values.split(' '));
            let found = both.find(|(one, _)| *one == name);
            let (_, value) = found.with_context(|| format!("no {name} in {text}"))?;
            value.parse().context("a counter")
        };
        Ok(Counters {
            asked: value("MPCapableSYNTX")?,
            spoken: value("MPCapableSYNACKRX")?,
        })
    }
}
