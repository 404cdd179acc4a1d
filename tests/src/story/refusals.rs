//! Item 5: proxies that the invite does not allow.

use anyhow::{Context, Result};
use totoro_api::Reason;

use super::frpc::{self, PATIENCE, Proxy};
use super::world::World;
use crate::report::Report;

/// The first of the ports of the allowed proxies. Named, not chosen by the node: a port that was
/// the second invite's cools down, and later items name theirs.
const FIRST_GOOD: u16 = 20_050;

pub(super) fn play(world: &mut World, report: &mut Report) {
    report.check("a third proxy of two", || third(world));
    let cases: [(&str, &'static str, u16, Reason); 5] = [
        (
            "a port outside the pool",
            "tcp",
            30_000,
            Reason::PortOutsidePool,
        ),
        (
            "a port that another invite holds",
            "tcp",
            super::tunnel::TCP_PORT,
            Reason::PortInUse,
        ),
        (
            "a port of the pool that is not the invite's",
            "tcp",
            20_040,
            Reason::PortDenied,
        ),
        (
            "a type that the invite does not have",
            "udp",
            20_060,
            Reason::ProxyTypeDenied,
        ),
        (
            "a type that needs no pool port",
            "stcp",
            0,
            Reason::ProxyTypeDenied,
        ),
    ];
    for (number, (name, kind, remote, reason)) in cases.into_iter().enumerate() {
        report.check(name, || one(world, number, kind, remote, reason));
    }
}

fn third(world: &mut World) -> Result<String> {
    let code = world.tenant()?.code.clone();
    let proxies = [Proxy::new("third", "tcp", world.backend.tcp, 20_010)];
    let text = frpc::with_proxies(&world.resolve(&code)?.frpc_toml, &proxies);
    let mut frpc = frpc::start(world, "frpc-third", &text)?;
    let said = frpc::proxy_refused(&mut frpc, 0, "third", Reason::MaxProxies);
    frpc.stop();
    said
}

fn one(
    world: &World,
    number: usize,
    kind: &'static str,
    remote: u16,
    reason: Reason,
) -> Result<String> {
    let code = &world
        .other
        .as_ref()
        .context("there is no second invite from item 2")?
        .code;
    let name = format!("odd{number}");
    // One allowed proxy beside it: a refusal costs only the proxy that it is for.
    let proxies = [
        Proxy::new(&name, kind, world.backend.tcp, remote),
        Proxy::new(
            &format!("good{number}"),
            "tcp",
            world.backend.tcp,
            FIRST_GOOD + number as u16,
        ),
    ];
    let text = frpc::with_proxies(&world.resolve(code)?.frpc_toml, &proxies);
    let mut frpc = frpc::start(world, &format!("frpc-{name}"), &text)?;
    let said = frpc::proxy_refused(&mut frpc, 0, &name, reason)?;
    frpc.wait_line(&format!("good{number}] start proxy success"), PATIENCE)?;
    frpc.stop();
    Ok(said)
}
