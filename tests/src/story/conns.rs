//! Item 4: `max_conns`, one by one and in a burst.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::world::{FRPS_PORT, World, ms, within};
use crate::lab::{NODE_CLIENT_V4, NODE_USER_V4, NODE_USER_V6, Place};
use crate::net::burst::Burst;
use crate::net::user::{self, Denied};
use crate::report::Report;

/// The invite's limit.
const LIMIT: usize = 5;
/// Connects of the burst.
const BURST: usize = 100;
/// Handshakes that a burst completes at least when all of it is admitted: all 100, were it not for
/// a machine so busy that some of the delayed ACKs leave by themselves.
const ADMITTED: usize = 50;

/// Who of a burst holds the last ACK of the handshake back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delays {
    Half,
    All,
}

pub(super) fn play(world: &mut World, report: &mut Report) {
    let mut held = Vec::new();
    report.check(
        "five held connections exchange data, two of them over IPv6",
        || hold(world, &mut held),
    );
    report.check("the sixth gets RST, over IPv4 and IPv6", || {
        sixth(world, &mut held)
    });
    report.check("one closes, the next is admitted", || {
        next(world, &mut held)
    });
    drop(held);
    report.check("the count returns to 0", || {
        Ok(ms(count_is(world, 0, Duration::from_secs(3))?))
    });
    for (name, ip) in [("IPv4", NODE_USER_V4), ("IPv6", NODE_USER_V6)] {
        let what = format!("100 connects at once over {name}: at most five get a byte through");
        report.check(&what, || burst(world, ip, Delays::Half));
        let what = format!("100 over {name} that are all admitted: all but five are mute");
        report.check(&what, || burst(world, ip, Delays::All));
    }
    report.check(
        "afterwards the count is 0 and frps's listeners listen",
        || after(world),
    );
}

fn door(world: &World) -> Result<SocketAddr> {
    user::at(NODE_USER_V4, world.ports()?.0)
}

fn door_v6(world: &World) -> Result<SocketAddr> {
    user::at(NODE_USER_V6, world.ports()?.0)
}

/// Live connections of the tenant, as the kernel counts them.
pub(super) fn count(world: &World) -> Result<u64> {
    let id = &world
        .tenant
        .as_ref()
        .context("there is no invite from item 2")?
        .invite
        .id;
    let rows = world.inspect("tenants")?;
    let row = rows
        .iter()
        .find(|row| row["tenant"] == id.as_str() || row["invite"] == id.as_str());
    let row = row.with_context(|| format!("inspect does not show {id}: {rows:?}"))?;
    row["conns"]
        .as_u64()
        .with_context(|| format!("no conns in {row}"))
}

fn count_is(world: &World, wanted: u64, patience: Duration) -> Result<Duration> {
    let begun = Instant::now();
    within(patience, || {
        let now = count(world)?;
        if now != wanted {
            bail!("the count is {now}, not {wanted}");
        }
        Ok(Some(begun.elapsed()))
    })
}

fn hold(world: &World, held: &mut Vec<TcpStream>) -> Result<String> {
    let ns = world.lab.ns(Place::User);
    let mut slowest = Duration::ZERO;
    for index in 0..LIMIT {
        let door = if index < 2 {
            door_v6(world)?
        } else {
            door(world)?
        };
        held.push(user::connect(ns, door)?);
    }
    for stream in held.iter_mut() {
        slowest = slowest.max(user::exchange(stream, b"hello")?);
    }
    let counted = count(world)?;
    ensure!(counted == LIMIT as u64, "the kernel counts {counted}");
    Ok(format!(
        "slowest echo {}, the kernel counts {counted}",
        ms(slowest)
    ))
}

fn sixth(world: &mut World, held: &mut [TcpStream]) -> Result<String> {
    let mut took = Duration::ZERO;
    for door in [door(world)?, door_v6(world)?] {
        match user::denied(world.lab.ns(Place::User), door, Duration::from_secs(3))? {
            Denied::Refused(after) => took = took.max(after),
            Denied::Dropped => bail!("no answer came from {door}"),
        }
        world.refused_conns += 1;
    }
    // Through the tunnel and back, on a connection that is held.
    let mut trip = Duration::MAX;
    for stream in held {
        let echo = user::exchange(stream, b"still here");
        trip = trip.min(echo.context("a held connection after the refusal")?);
    }
    Ok(format!(
        "Connection refused after {}; a round trip through the tunnel takes {}",
        ms(took),
        ms(trip)
    ))
}

fn next(world: &World, held: &mut Vec<TcpStream>) -> Result<String> {
    drop(held.pop().context("nothing is held")?);
    let begun = Instant::now();
    let mut admitted = within(Duration::from_secs(3), || {
        Ok(Some(user::connect(
            world.lab.ns(Place::User),
            door(world)?,
        )?))
    })?;
    let took = begun.elapsed();
    user::exchange(&mut admitted, b"my turn")?;
    held.push(admitted);
    Ok(format!("{} after the close", ms(took)))
}

fn burst(world: &mut World, ip: &str, delays: Delays) -> Result<String> {
    count_is(world, 0, Duration::from_secs(3))?;
    let (accepted_before, heard_before) = world.backend.counts();
    // The service speaks first, so that bytes try to pass in both directions.
    world.backend.greet(true);
    let mut burst = Burst::start(
        world.lab.ns(Place::User),
        user::at(ip, world.ports()?.0)?,
        BURST,
        match delays {
            Delays::Half => |index| index % 2 == 0,
            Delays::All => |_| true,
        },
    )?;
    burst.drive(Duration::from_millis(100))?;
    let counted = count(world)?;
    burst.drive(Duration::from_millis(900))?;
    world.backend.greet(false);
    let (accepted, heard) = world.backend.counts();
    let (accepted, heard) = (accepted - accepted_before, heard - heard_before);
    let (served, live, handshakes) = (burst.served(), burst.live(), burst.connected());
    let figure = format!(
        "{handshakes} handshakes, {accepted} reached the service, {heard} were heard, {served} were served, {live} live; the kernel counts {counted} after 100 ms"
    );
    ensure!(heard <= LIMIT && served <= LIMIT, "{figure}");
    ensure!(served > 0, "nobody was served: {figure}");
    ensure!(counted == LIMIT as u64 && live == LIMIT, "{figure}");
    ensure!(
        delays == Delays::Half || handshakes >= ADMITTED,
        "too few were admitted to tell: {figure}"
    );
    // Each of the others was refused, before its handshake was over or after.
    world.refused_conns += (BURST - LIMIT) as u64;
    Ok(figure)
}

fn after(world: &World) -> Result<String> {
    let took = count_is(world, 0, Duration::from_secs(3))?;
    let (user, client) = (world.lab.ns(Place::User), world.lab.ns(Place::Client));
    user::fetch(user, door(world)?).context("the page after the burst")?;
    user::connect(client, user::at(NODE_CLIENT_V4, FRPS_PORT)?).context("frps's own port")?;
    Ok(format!("0 after {}", ms(took)))
}
