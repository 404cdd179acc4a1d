//! Item 3: from a code to a tunnel, and back after a kill and an expired ticket.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::frpc::{self, Proxy};
use super::world::{TICKET_TTL_S, World, ms};
use crate::lab::{NODE_USER_V4, NODE_USER_V6, Place};
use crate::net::{PAGE, user};
use crate::report::Report;

/// The tcp proxy's port, which the file asks for.
pub(super) const TCP_PORT: u16 = 20_000;
/// The first port of the older frpc, which nobody else asks for.
const OLDER_PORT: u16 = 20_085;

pub(super) fn play(world: &mut World, report: &mut Report) {
    report.check(
        "the code resolves; frpc fetches its ticket by itself; tcp and udp run",
        || start(world),
    );
    for (name, ip) in [("IPv4", NODE_USER_V4), ("IPv6", NODE_USER_V6)] {
        report.check(
            &format!("a page of 1 MiB over {name}, checksum equal"),
            || page(world, ip),
        );
        report.check(&format!("UDP echo over {name}"), || {
            let (_, udp) = world.ports()?;
            let took = user::echo(
                world.lab.ns(Place::User),
                user::at(ip, udp)?,
                b"is anyone there",
            )?;
            Ok(ms(took))
        });
    }
    report.check(
        "kill -9, the ticket's exp passes, the same file again: same ports",
        || restart(world),
    );
    report.check(
        "older frpc, from 0.61 on, with the file of their code",
        || older(world),
    );
}

fn page(world: &World, ip: &str) -> Result<String> {
    let (tcp, _) = world.ports()?;
    let took = user::fetch(world.lab.ns(Place::User), user::at(ip, tcp)?)?;
    let rate = PAGE as f64 / took.as_secs_f64() / f64::from(1 << 20);
    Ok(format!("{}, {rate:.0} MiB/s", ms(took)))
}

fn proxies(world: &World) -> [Proxy; 2] {
    [
        Proxy::new("web", "tcp", world.backend.tcp, TCP_PORT),
        Proxy::new("dns", "udp", world.backend.udp, 0),
    ]
}

fn start(world: &mut World) -> Result<String> {
    let begun = Instant::now();
    let code = world.tenant()?.code.clone();
    let resolved = world.resolve(&code)?;
    let secret = format!("clientSecret = \"{code}\"");
    ensure!(
        resolved
            .frpc_toml
            .lines()
            .any(|line| line.trim().ends_with(&secret)),
        "the file's client secret is not the code"
    );
    ensure!(
        !resolved.frpc_toml.contains("v4.public.")
            && !resolved.frpc_toml.contains(&resolved.ticket),
        "the file has a ticket, which would not last"
    );
    let proxies = proxies(world);
    let text = frpc::with_proxies(&resolved.frpc_toml, &proxies);
    let frpc = frpc::up(world, "frpc", &text, &proxies)?;
    world.tenant()?.frpc = Some(frpc);
    let took = begun.elapsed();
    let usage = world.usage_when(&code, |usage| usage.usage.leases.len() == 2)?;
    let port = |protocol: &str| {
        let mut leases = usage.usage.leases.iter();
        leases
            .find(|lease| lease.protocol == protocol)
            .map(|lease| lease.port)
    };
    let (tcp, udp) = (
        port("tcp").context("no tcp lease")?,
        port("udp").context("no udp lease")?,
    );
    ensure!(tcp == TCP_PORT, "the tcp proxy has {tcp}");
    world.ports = Some((tcp, udp));
    Ok(format!(
        "{} from code to tunnel; tcp {tcp}, udp {udp}",
        ms(took)
    ))
}

fn restart(world: &mut World) -> Result<String> {
    let before = world.ports()?;
    world.tenant()?.frpc.take().context("no frpc runs")?.kill();
    std::thread::sleep(Duration::from_secs(TICKET_TTL_S) + Duration::from_millis(200));
    let proxies = proxies(world);
    let text =
        std::fs::read_to_string(world.lab.file("other/frpc.toml")).context("the same file")?;
    let begun = Instant::now();
    let frpc = frpc::up(world, "frpc", &text, &proxies)?;
    let took = begun.elapsed();
    world.tenant()?.frpc = Some(frpc);
    let ns = world.lab.ns(Place::User);
    user::fetch(ns, user::at(NODE_USER_V4, before.0)?).context("the page at the old tcp port")?;
    user::echo(ns, user::at(NODE_USER_V4, before.1)?, b"again")
        .context("the echo at the old udp port")?;
    Ok(format!(
        "tcp {}, udp {}, back after {}, with a ticket that frpc fetched anew",
        before.0,
        before.1,
        ms(took)
    ))
}

/// One after the other, with an invite and a port of their own.
fn older(world: &World) -> Result<String> {
    let mut figures = Vec::new();
    for ((version, frpc), port) in world.lab.tools.older_frpc.iter().zip(OLDER_PORT..) {
        let invite = world.invite(version, json!({ "max_proxies": 1 }))?;
        let generated = world.resolve(&invite.code)?.frpc_toml;
        let proxies = [Proxy::new("old", "tcp", world.backend.tcp, port)];
        let text = frpc::with_proxies(&generated, &proxies);
        let name = format!("frpc-{version}");
        let begun = Instant::now();
        let mut frpc = frpc::start_release(world, frpc, &name, &text)?;
        frpc.wait_line("old] start proxy success", frpc::PATIENCE)?;
        let took = begun.elapsed();
        let ns = world.lab.ns(Place::User);
        user::fetch(ns, user::at(NODE_USER_V4, port)?)?;
        frpc.stop();
        figures.push(format!("{version} after {}", ms(took)));
    }
    Ok(figures.join(", "))
}
