//! Item 12: what people see in the kernel, by our command and by bpftool.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::frpc::{self, Proxy};
use super::world::World;
use crate::lab::{NODE_USER_V4, Place};
use crate::net::user;
use crate::report::Report;

pub(super) fn play(world: &mut World, report: &mut Report) {
    // Something to see: a lease of the second invite, with two live connections.
    let seen = (|| {
        let code = world
            .other
            .as_ref()
            .context("there is no second invite from item 2")?
            .code
            .clone();
        let proxies = [Proxy::new("seen", "tcp", world.backend.tcp, 20_080)];
        let text = frpc::with_proxies(&world.resolve(&code)?.frpc_toml, &proxies);
        let frpc = frpc::up(world, "frpc-seen", &text, &proxies)?;
        let connect = || user::connect(world.lab.ns(Place::User), user::at(NODE_USER_V4, 20_080)?);
        Ok::<_, anyhow::Error>((frpc, [connect()?, connect()?]))
    })();
    report.check(
        "inspect shows ports, tenants, connections and reasons",
        || {
            seen.as_ref()
                .map_err(|error| anyhow::anyhow!("{error:#}"))?;
            shows(world)
        },
    );
    report.check("bpftool shows PORTS with field names, and agrees", || {
        ports(world)
    });
    report.check("bpftool shows USAGE with field names, and agrees", || {
        usage(world)
    });
    report.check("bpftool shows REASONS with field names, and agrees", || {
        reasons(world)
    });
}

fn shows(world: &World) -> Result<String> {
    let mut figures = Vec::new();
    for what in ["ports", "tenants", "conns", "reasons"] {
        let rows = world.inspect(what)?;
        ensure!(!rows.is_empty(), "inspect {what} shows nothing");
        figures.push(format!("{} {what}", rows.len()));
    }
    let text = world.node_cli(&["inspect", "ports"])?.ok()?;
    ensure!(
        text.contains("20080"),
        "the table does not show port 20080: {text}"
    );
    Ok(figures.join(", "))
}

/// A pinned map as plain `bpftool map dump` shows it, by BTF names.
fn dump(world: &World, map: &str) -> Result<Vec<Value>> {
    let versions = std::fs::read_dir(world.lab.pin_root()).context("the pins' directory")?;
    let dirs: Vec<PathBuf> = versions.flatten().map(|entry| entry.path()).collect();
    let places = dirs
        .iter()
        .flat_map(|dir| [dir.join(map), dir.join("maps").join(map)]);
    let path = places
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("{map} is not pinned"))?;
    let mut command = world.lab.command("bpftool");
    command.args(["--json", "map", "dump", "pinned"]).arg(path);
    let text = world.lab.run(Place::Node, command)?.ok()?;
    let rows: Vec<Value> =
        serde_json::from_str(&text).with_context(|| format!("read {text:.200}"))?;
    rows.into_iter()
        .map(|mut row| match row.get_mut("formatted").map(Value::take) {
            Some(formatted) => Ok(formatted),
            None => bail!("{map} has no BTF: {row}"),
        })
        .collect()
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name]
        .as_u64()
        .with_context(|| format!("no number {name} in {value}"))
}

fn ports(world: &World) -> Result<String> {
    let mut kernel = Vec::new();
    for row in dump(world, "PORTS")? {
        number(&row["value"], "tenant")?;
        kernel.push((number(&row["key"], "port")?, number(&row["key"], "proto")?));
    }
    let mut ours = Vec::new();
    for row in world.inspect("ports")? {
        let proto = match row["proto"].as_str().or(row["protocol"].as_str()) {
            Some("tcp") => 6,
            Some("udp") => 17,
            other => bail!("protocol {other:?} in {row}"),
        };
        ours.push((number(&row, "port")?, proto));
    }
    kernel.sort_unstable();
    ours.sort_unstable();
    ensure!(
        kernel == ours && kernel.contains(&(20_080, 6)),
        "bpftool {kernel:?}, inspect {ours:?}"
    );
    Ok(format!("{kernel:?}"))
}

fn usage(world: &World) -> Result<String> {
    let mut kernel = BTreeMap::new();
    for row in dump(world, "USAGE")? {
        let key = row["key"]
            .as_u64()
            .with_context(|| format!("no key in {row}"))?;
        kernel.insert(
            key,
            (
                number(&row["value"], "conns")?,
                number(&row["value"], "admitted")?,
            ),
        );
    }
    let mut ours = BTreeMap::new();
    for row in world.inspect("tenants")? {
        ours.insert(
            number(&row, "number")?,
            (number(&row, "conns")?, number(&row, "admitted")?),
        );
    }
    ensure!(kernel == ours, "bpftool {kernel:?}, inspect {ours:?}");
    ensure!(
        kernel.values().any(|(conns, _)| *conns == 2),
        "nobody has two connections: {kernel:?}"
    );
    Ok(format!(
        "{} tenants (conns, admitted): {:?}",
        kernel.len(),
        kernel.values()
    ))
}

fn reasons(world: &World) -> Result<String> {
    let mut kernel = BTreeMap::<(u64, u64), u64>::new();
    for row in dump(world, "REASONS")? {
        let key = (
            number(&row["key"], "tenant")?,
            number(&row["key"], "reason")?,
        );
        // Per CPU: the sum is the count.
        let cpus = row["values"]
            .as_array()
            .with_context(|| format!("no CPUs in {row}"))?;
        let mut sum = 0;
        for cpu in cpus {
            sum += number(&cpu["value"], "count")?;
        }
        kernel.insert(key, sum);
    }
    let mut ours = BTreeMap::new();
    for row in world.inspect("reasons")? {
        let code = row["reason"]
            .as_str()
            .with_context(|| format!("no reason in {row}"))?;
        let reason =
            totoro_api::Reason::from_code(code).with_context(|| format!("reason {code:?}"))?;
        ours.insert(
            (number(&row, "number")?, u64::from(reason.number())),
            number(&row, "count")?,
        );
    }
    ensure!(kernel == ours, "bpftool {kernel:?}, inspect {ours:?}");
    Ok(format!(
        "{} counters, {} refusals",
        kernel.len(),
        kernel.values().sum::<u64>()
    ))
}
