//! Item 9: pause, resume, revoke.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use totoro_api::Reason;
use totoro_api::wire::invite::Invite;
use totoro_api::wire::push::InviteState;

use super::frpc::{self, PATIENCE, Proxy};
use super::world::{Tenant, World, ms, within};
use crate::lab::{NODE_USER_V4, Place};
use crate::net::user::{self, Denied};
use crate::report::Report;

/// A port that no other item has.
const BRIEF_PORT: u16 = 20_025;

pub(super) fn play(world: &mut World, report: &mut Report) {
    let mut live = None;
    report.check(
        "pause: new connections are refused, the live one goes on",
        || pause(world, &mut live),
    );
    report.check("pause: a new login is refused", || paused_login(world));
    report.check("resume: new connections are admitted", || resume(world));
    report.check(
        "revoke: the live connection, UDP and frpc's session are cut",
        || revoke(world, live.take()),
    );
    report.check("frpc's return is refused", || no_return(world));
    report.check(
        "the revoked invite's port cools down before another may have it",
        || cooling(world),
    );
    report.check(
        "so does the port of a proxy that its own frpc closed",
        || closed(world),
    );
}

fn door(world: &World) -> Result<SocketAddr> {
    user::at(NODE_USER_V4, world.ports()?.0)
}

fn set_state(world: &World, state: InviteState) -> Result<Instant> {
    let id = &world
        .tenant
        .as_ref()
        .context("there is no invite from item 2")?
        .invite
        .id;
    let changed: Invite = world
        .lender()?
        .patch(&format!("/nodes/invites/{id}"), &json!({ "state": state }))?;
    let answered = Instant::now();
    ensure!(changed.state == state, "the invite is {:?}", changed.state);
    Ok(answered)
}

fn pause(world: &World, live: &mut Option<TcpStream>) -> Result<String> {
    let ns = world.lab.ns(Place::User);
    let mut stream = user::connect(ns, door(world)?)?;
    stream.write_all(b"TICK")?;
    let answered = set_state(world, InviteState::Paused)?;
    let took = within(PATIENCE, || {
        match user::denied(ns, door(world)?, PATIENCE)? {
            Denied::Refused(_) => Ok(Some(answered.elapsed())),
            Denied::Dropped => bail!("dropped instead of refused"),
        }
    })?;
    ensure!(ticks(&mut stream)? > 0, "the live connection fell silent");
    *live = Some(stream);
    Ok(format!("refusing {} after the answer", ms(took)))
}

/// Bytes that arrive on a ticking connection from now on, within 200 ms.
fn ticks(stream: &mut TcpStream) -> Result<usize> {
    let mut buffer = [0; 65_536];
    let mut arrived = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        let read = stream
            .read(&mut buffer)
            .context("read the live connection")?;
        ensure!(read > 0, "the live connection ended");
        // What was under way when we began to listen proves nothing.
        if begun.elapsed() > Duration::from_millis(100) {
            arrived += read;
        }
    }
    Ok(arrived)
}

fn paused_login(world: &mut World) -> Result<String> {
    let text = std::fs::read_to_string(world.lab.file("other/frpc.toml")).context("frpc's file")?;
    frpc::login_refused(world, "frpc-paused", &text, Reason::InvitePaused)
}

fn resume(world: &World) -> Result<String> {
    let answered = set_state(world, InviteState::Active)?;
    let took = within(PATIENCE, || {
        let mut stream = user::connect(world.lab.ns(Place::User), door(world)?)?;
        user::exchange(&mut stream, b"back")?;
        Ok(Some(answered.elapsed()))
    })?;
    Ok(format!("admitting {} after the answer", ms(took)))
}

fn revoke(world: &mut World, live: Option<TcpStream>) -> Result<String> {
    let mut stream = live.context("there is no live connection")?;
    ensure!(
        ticks(&mut stream)? > 0,
        "the live connection fell silent before"
    );
    let udp = user::at(NODE_USER_V4, world.ports()?.1)?;
    user::echo(world.lab.ns(Place::User), udp, b"before").context("UDP before")?;
    let id = world.tenant()?.invite.id.clone();
    let lender = world.lender()?;
    let frpc = world.tenant()?.frpc.as_mut().context("no frpc runs")?;
    let mark = frpc.mark();
    let (answered, bytes, gone) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| user::read_to_death(&mut stream, Duration::from_secs(10)));
        let control = scope.spawn(|| {
            frpc.wait_after(mark, "try to connect to server", PATIENCE)
                .map(|_| Instant::now())
        });
        let answered = lender
            .delete(&format!("/nodes/invites/{id}"))
            .map(|()| Instant::now());
        (answered, reader.join(), control.join())
    });
    let answered = answered?;
    let (last, end) = bytes.ok().context("the reader panicked")??;
    let gone = gone.ok().context("the watcher panicked")??;
    let after = |at: Instant| at.saturating_duration_since(answered);
    if user::echo(world.lab.ns(Place::User), udp, b"after").is_ok() {
        bail!("UDP goes on");
    }
    Ok(format!(
        "after the answer: last byte {}, connection dead {}, frpc disconnected {}",
        ms(after(last)),
        ms(after(end)),
        ms(after(gone))
    ))
}

fn no_return(world: &mut World) -> Result<String> {
    let frpc = world.tenant()?.frpc.as_mut().context("no frpc runs")?;
    let line = frpc.wait_line(
        &format!("totoro[{}]", Reason::InviteRevoked),
        Duration::from_secs(20),
    )?;
    let said = frpc::said(&line, Reason::InviteRevoked)?;
    if let Some(frpc) = world.tenant()?.frpc.take() {
        frpc.stop();
    }
    Ok(said)
}

fn cooling(world: &World) -> Result<String> {
    let (tcp, _) = world.ports()?;
    heir(world, "frpc-heir", &other(world)?.code, tcp)
}

/// The second invite's frpc ends in good order; a third invite wants the port.
fn closed(world: &World) -> Result<String> {
    let proxies = [Proxy::new("brief", "tcp", world.backend.tcp, BRIEF_PORT)];
    let text = frpc::with_proxies(&world.resolve(&other(world)?.code)?.frpc_toml, &proxies);
    let frpc = frpc::up(world, "frpc-brief", &text, &proxies)?;
    let leased = || -> Result<bool> {
        let rows = world.inspect("ports")?;
        Ok(rows.iter().any(|row| row["port"] == BRIEF_PORT))
    };
    ensure!(leased()?, "inspect shows no lease of {BRIEF_PORT}");
    frpc.stop();
    within(PATIENCE, || Ok((!leased()?).then_some(())))
        .context("the lease did not end with its proxy")?;
    let limits = json!({ "types": ["tcp"], "ports": [BRIEF_PORT.to_string()] });
    let third = world.invite("third", limits)?;
    heir(world, "frpc-third-heir", &third.code, BRIEF_PORT)
}

fn other(world: &World) -> Result<&Tenant> {
    let other = world.other.as_ref();
    other.context("there is no second invite from item 2")
}

/// Somebody else's frpc wants a port too early; what it says about that.
fn heir(world: &World, name: &str, code: &str, port: u16) -> Result<String> {
    let proxies = [Proxy::new("heir", "tcp", world.backend.tcp, port)];
    let text = frpc::with_proxies(&world.resolve(code)?.frpc_toml, &proxies);
    let mut frpc = frpc::start(world, name, &text)?;
    let said = frpc::proxy_refused(&mut frpc, 0, "heir", Reason::PortCooling);
    frpc.stop();
    said
}
