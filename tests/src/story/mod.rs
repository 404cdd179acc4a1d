//! The story: someone without an account pastes an invite code, gets a tunnel on a lent node, and
//! the node's kernel holds them to the invite. One file per item; each check has a figure.

pub(crate) mod audit;
pub(crate) mod bring_up;
mod closed_ports;
mod conns;
pub mod frpc;
pub mod frps;
pub mod headless;
pub(crate) mod health;
mod inspect;
mod invites;
mod kernel;
mod operator;
pub mod outage;
pub mod public;
mod refusals;
mod revoke;
mod tickets;
mod tunnel;
mod usage;
mod users;
pub(crate) mod world;

use anyhow::Result;

use crate::lab::Lab;
use crate::report::Report;
pub(crate) use bring_up::{frps as start_frps, play as bring_up};
pub(crate) use kernel::figure;
pub(crate) use world::CONTROL;
pub use world::{FRPS_PORT, Tenant, World, within};

/// One item: what it shows, and how.
type Item = (&'static str, fn(&mut World, &mut Report));

/// Plays the story, or its first `count` items, in a raised lab. What fails is a ✘ in the report; the world is returned
/// for a lab that is kept.
///
/// # Errors
/// The services behind frpc can't be started.
pub fn play(lab: Lab, report: &mut Report, count: usize) -> Result<World> {
    let mut world = World::new(lab, world::TICKET_TTL_S)?;
    let items: [Item; 12] = [
        (
            "A control plane, a node, frps, and the node's programs in the kernel",
            bring_up::play,
        ),
        ("The operator makes invites", invites::play),
        (
            "A stock frpc becomes a tunnel with nothing but the code",
            tunnel::play,
        ),
        ("max_conns: held by the kernel, exactly", conns::play),
        (
            "What the invite does not allow is refused, and frpc says why",
            refusals::play,
        ),
        ("The tenant sees ports and refusals", usage::play),
        (
            "Ports without a lease are closed; ports outside the pool are untouched",
            closed_ports::play,
        ),
        ("Tickets: each wrong one has its own reason", tickets::play),
        (
            "Pause refuses what is new; revoke cuts what lives",
            revoke::play,
        ),
        ("A public node: no code, its public limits", public::play),
        ("The audit trail has all of it in order", audit::play),
        ("inspect and bpftool agree", inspect::play),
    ];
    for (title, play) in items.into_iter().take(count) {
        report.item(title);
        play(&mut world, report);
        if !world.is_up() {
            // Without these every later check would fail for the same reason.
            break;
        }
    }
    Ok(world)
}
