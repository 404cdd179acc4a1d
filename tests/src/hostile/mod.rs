//! What a node must survive: tenants, clients and strangers who do not play fair, with real frps and
//! frpc. Short forms run with the tests, long ones by `cargo xtask soak`.

pub mod aim;
pub mod client;
pub mod clock;
mod crowd;
pub mod flood;
pub mod forgotten;
mod handmade;
pub mod logins;
pub mod multipath;
pub mod plugin;
pub mod readers;
pub mod replays;
pub mod revoke;
mod said;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::{self, Lab, Options, Tools};
use crate::report::Report;
use crate::story::world::{HEARTBEAT, TICKET_TTL_S};
use crate::story::{self, World};

/// A lab with control plane, node and frps, whose node has these settings beside the story's.
///
/// # Errors
/// The lab can't be had, or something does not start.
pub fn world(name: &str, settings: &[(&'static str, &'static str)]) -> Result<World> {
    raise(name, settings, Some(HEARTBEAT), Report::new(false))
}

/// The same to be measured: it reports as often as in life, and nothing is printed but what fails, on
/// stderr.
///
/// # Errors
/// As [`world`].
pub fn quiet_world(name: &str, settings: &[(&'static str, &'static str)]) -> Result<World> {
    raise(name, settings, None, Report::quiet())
}

fn raise(
    name: &str,
    settings: &[(&'static str, &'static str)],
    heartbeat: Option<&'static str>,
    mut report: Report,
) -> Result<World> {
    let tools = Tools::locate()?;
    tools.require()?;
    // reqwest is built without a TLS provider of its own choice.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let tag = format!("{}-{name}", lab::run_tag());
    let lab = Lab::raise(tools, Options { tag, keep: false })?;
    let mut world = World::new(lab, TICKET_TTL_S)?;
    world.settings.extend(settings);
    world.heartbeat = heartbeat;
    story::bring_up(&mut world, &mut report);
    ensure!(report.finish(), "the lab did not come up");
    Ok(world)
}

/// A TCP socket that will connect from this address.
fn from(ip: &str) -> Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&std::net::SocketAddr::new(ip.parse()?, 0).into())?;
    Ok(socket)
}

/// The middle of some times, and what 99 of 100 stay below, in milliseconds.
fn quantiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |part: f64| {
        let index = (times.len() as f64 * part).ceil() as usize;
        times.get(index.clamp(1, times.len().max(1)) - 1)
    };
    match (at(0.5), at(0.99)) {
        (Some(half), Some(most)) => format!(
            "{:.1} / {:.1}",
            half.as_secs_f64() * 1000.0,
            most.as_secs_f64() * 1000.0
        ),
        _ => "-".to_owned(),
    }
}
