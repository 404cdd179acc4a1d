//! Item 12: what people see in the kernel, by our command and by bpftool.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::frpc::{self, Proxy};
use super::health;
use super::world::{World, within};
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
        "inspect shows ports, tenants, connections, sources, talkers, reasons and tables",
        || {
            seen.as_ref()
                .map_err(|error| anyhow::anyhow!("{error:#}"))?;
            shows(world)
        },
    );
    report.check("check finds the machine fit", || health::check(world));
    report.check("doctor finds the node well", || health::doctor(world));
    report.check("/metrics on its socket agrees with inspect", || {
        health::metrics(world)
    });
    report.check("the daemon holds three capabilities and no other", || {
        health::privileges(world)
    });
    report.check("bpftool shows PORTS with field names, and agrees", || {
        ports(world)
    });
    report.check("bpftool shows TENANTS with field names, and agrees", || {
        tenants(world)
    });
    report.check("bpftool shows CONNS with field names, and agrees", || {
        // One of an earlier item may end between the two looks.
        within(Duration::from_secs(3), || conns(world).map(Some))
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
    for what in [
        "ports", "tenants", "conns", "sources", "talkers", "reasons", "tables",
    ] {
        let rows = world.inspect(what)?;
        ensure!(!rows.is_empty(), "inspect {what} shows nothing");
        figures.push(format!("{} {what}", rows.len()));
    }
    // Of a daemon that has just started there may be none yet: the kernel does not tell of each.
    let refused = world.inspect("refused")?;
    ensure!(
        refused.iter().all(|one| one["reason"].is_string()),
        "a refusal without a reason: {refused:?}"
    );
    figures.push(format!("{} refused", refused.len()));
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
    let mut kernel = BTreeMap::new();
    for row in dump(world, "PORTS")? {
        let key = (number(&row["key"], "port")?, number(&row["key"], "proto")?);
        kernel.insert(
            key,
            (
                number(&row["value"], "tenant")?,
                number(&row["value"], "lease")?,
            ),
        );
    }
    let mut ours = BTreeMap::new();
    for row in world.inspect("ports")? {
        let proto = match row["proto"].as_str() {
            Some("tcp") => 6,
            Some("udp") => 17,
            other => bail!("protocol {other:?} in {row}"),
        };
        let key = (number(&row, "port")?, proto);
        ours.insert(key, (number(&row, "number")?, number(&row, "lease")?));
    }
    ensure!(
        kernel == ours && kernel.contains_key(&(20_080, 6)),
        "bpftool {kernel:?}, inspect {ours:?}"
    );
    Ok(format!("(port, protocol): (tenant, lease) {kernel:?}"))
}

fn tenants(world: &World) -> Result<String> {
    let mut kernel = BTreeMap::new();
    for row in dump(world, "TENANTS")? {
        let key = row["key"]
            .as_u64()
            .with_context(|| format!("no key in {row}"))?;
        let mut seen = Vec::new();
        for name in ["state", "epoch", "max_conns", "max_flows"] {
            seen.push(number(&row["value"], name)?);
        }
        kernel.insert(key, seen);
    }
    let mut ours = BTreeMap::new();
    for row in world.inspect("tenants")? {
        let state = match row["state"].as_str() {
            Some("active") => 1,
            Some("held") => 2,
            Some("cut") => 3,
            other => bail!("state {other:?} in {row}"),
        };
        let mut seen = vec![state];
        for name in ["epoch", "max_conns", "max_flows"] {
            seen.push(number(&row, name)?);
        }
        ours.insert(number(&row, "number")?, seen);
    }
    ensure!(kernel == ours, "bpftool {kernel:?}, inspect {ours:?}");
    Ok(format!("{} tenants: state, epoch, limits", kernel.len()))
}

fn conns(world: &World) -> Result<String> {
    let mut kernel = BTreeMap::new();
    for row in dump(world, "CONNS")? {
        let key = row["key"]
            .as_u64()
            .with_context(|| format!("no key in {row}"))?;
        let conn = &row["value"];
        let seen = ["tenant", "lease", "local_port", "remote_port"].map(|name| number(conn, name));
        kernel.insert(key, seen.into_iter().collect::<Result<Vec<u64>>>()?);
    }
    let mut ours = BTreeMap::new();
    for row in world.inspect("conns")? {
        let port = |name: &str| -> Result<u64> {
            let text = row[name].as_str().unwrap_or_default();
            let address: std::net::SocketAddr = text
                .parse()
                .with_context(|| format!("{name} {text:?} in {row}"))?;
            Ok(address.port().into())
        };
        let seen = [
            number(&row, "number"),
            number(&row, "lease"),
            port("node"),
            port("user"),
        ];
        let seen = seen.into_iter().collect::<Result<Vec<u64>>>()?;
        ours.insert(number(&row, "cookie")?, seen);
    }
    ensure!(kernel == ours, "bpftool {kernel:?}, inspect {ours:?}");
    let seen = kernel.values().filter(|conn| conn[2] == 20_080).count();
    ensure!(seen == 2, "{seen} connections of two: {kernel:?}");
    Ok(format!("{} connections, by cookie", kernel.len()))
}

fn usage(world: &World) -> Result<String> {
    let mut kernel = BTreeMap::new();
    for row in dump(world, "USAGE")? {
        let key = row["key"]
            .as_u64()
            .with_context(|| format!("no key in {row}"))?;
        // What the node has in all, which is no tenant's.
        if key == 0 {
            continue;
        }
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
