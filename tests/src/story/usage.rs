//! Item 6: what the tenant itself is told.

use anyhow::{Context, Result, ensure};
use totoro_api::Reason;

use super::world::World;
use crate::report::Report;

pub(super) fn play(world: &mut World, report: &mut Report) {
    report.check(
        "remotePort = 0 got a port of the pool, and usage tells which",
        || chosen(world),
    );
    report.check("usage tells what was refused, and why", || refused(world));
}

fn chosen(world: &mut World) -> Result<String> {
    let (_, udp) = world.ports()?;
    let code = world.tenant()?.code.clone();
    let usage = world.usage_when(&code, |usage| usage.usage.leases.len() == 2)?;
    let lease = usage
        .usage
        .leases
        .iter()
        .find(|lease| lease.protocol == "udp")
        .context("no udp lease")?;
    ensure!(lease.proxy == "dns", "the lease is of {:?}", lease.proxy);
    ensure!(
        lease.port == udp && (20_000..20_050).contains(&udp),
        "the port is {}",
        lease.port
    );
    ensure!(!lease.address.is_empty(), "the lease has no address");
    Ok(format!(
        "{} {}:{}, figures {} s old",
        lease.proxy, lease.address, lease.port, usage.age_s
    ))
}

fn refused(world: &mut World) -> Result<String> {
    let code = world.tenant()?.code.clone();
    let wanted = [Reason::MaxConns, Reason::MaxProxies];
    let usage = world.usage_when(&code, |usage| {
        wanted.iter().all(|reason| {
            usage
                .usage
                .refused
                .get(reason)
                .is_some_and(|count| *count > 0)
        })
    })?;
    let told: Vec<String> = usage
        .usage
        .refused
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    Ok(told.join(", "))
}
