//! What the daemon says of itself, to an operator and to Prometheus.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::world::World;

/// `doctor` finds the programs, the daemon, the control plane and the spool well.
pub(super) fn doctor(world: &World) -> Result<String> {
    let lines = world.doctor()?;
    for component in [
        "kernel",
        "daemon",
        "control plane",
        "clock",
        "canary",
        "spool",
        "drift",
        "frps",
    ] {
        let line = lines
            .iter()
            .find(|line| line["component"] == component)
            .with_context(|| format!("no line on {component} in {lines:?}"))?;
        ensure!(line["status"] == "ok", "{line}");
    }
    Ok(format!("{} lines", lines.len()))
}

/// What `check` looks at on a machine that is a node, by component.
const CHECKED: [&str; 22] = [
    "kernel",
    "capabilities",
    "bpf",
    "options",
    "sk_lookup",
    "privilege",
    "bpffs",
    "cgroup",
    "state",
    "object",
    "sock_destroy",
    "plugin",
    "pool",
    "ephemeral",
    "interface",
    "listeners",
    "tproxy",
    "frps",
    "frps config",
    "control",
    "node",
    "clock",
];

/// `check`, beside the running daemon, has looked at everything and finds nothing that keeps this
/// machine from being a node.
pub(super) fn check(world: &World) -> Result<String> {
    let told = world.node_cli(&["check", "--json"])?;
    let lines: Vec<Value> = serde_json::from_str(&told.out)
        .with_context(|| format!("read {}{}", told.out, told.err))?;
    for component in CHECKED {
        ensure!(
            lines.iter().any(|line| line["component"] == component),
            "no line on {component} in {}",
            told.out
        );
    }
    let with = |status: &str| -> Vec<&Value> {
        let those = lines.iter().filter(|line| line["status"] == status);
        those.collect()
    };
    let (ok, warn, fail) = (with("ok"), with("warn"), with("fail"));
    ensure!(fail.is_empty(), "{fail:?}");
    ensure!(ok.len() + warn.len() == lines.len(), "{}", told.out);
    ensure!(told.code == 0, "exit code {}: {}", told.code, told.err);
    let warned: Vec<&str> = warn
        .iter()
        .filter_map(|line| line["component"].as_str())
        .collect();
    Ok(format!(
        "{} lines, {} of them a warning ({})",
        lines.len(),
        warn.len(),
        warned.join(", ")
    ))
}

/// `/metrics` on its unix socket agrees with `inspect`.
pub(super) fn metrics(world: &World) -> Result<String> {
    let text = scrape(world)?;
    let value = |series: &str| -> Result<u64> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let line = line.with_context(|| format!("no {series} in {text}"))?;
        line.parse().with_context(|| format!("{series} {line}"))
    };
    let leases = value("totoro_node_leases")?;
    let listed = u64::try_from(world.inspect("ports")?.len())?;
    ensure!(
        leases == listed,
        "{leases} leases in the figures, {listed} ports listed"
    );
    let asked = value("totoro_node_plugin_requests_total{op=\"Login\",answer=\"allowed\"}")?;
    ensure!(asked > 0, "no Login was counted");
    let conns = value("totoro_node_conns")?;
    ensure!(conns >= 2, "{conns} connections in the figures");
    Ok(format!(
        "{} series",
        text.lines().filter(|line| !line.starts_with('#')).count()
    ))
}

/// The figures as they are now.
pub(crate) fn scrape(world: &World) -> Result<String> {
    let path = world.lab.run_dir().join("node/metrics.sock");
    let mut stream = UnixStream::connect(&path).context("connect to the figures' socket")?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n")?;
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .context("read the figures")?;
    ensure!(text.starts_with("HTTP/1.1 200"), "{text}");
    Ok(text)
}

/// What the daemon found to differ since its start, and mended.
pub(crate) fn mended(figures: &str) -> BTreeMap<String, u64> {
    let mut mended = BTreeMap::new();
    for line in figures.lines() {
        let Some(rest) = line.strip_prefix("totoro_node_mended_total{what=\"") else {
            continue;
        };
        if let Some((what, count)) = rest.split_once("\"} ") {
            mended.insert(what.to_owned(), count.parse().unwrap_or(0));
        }
    }
    mended
}

impl World {
    /// How often the daemon found such a difference since its start, and mended it.
    ///
    /// # Errors
    /// Its figures can't be read.
    pub fn mended(&self) -> Result<BTreeMap<String, u64>> {
        Ok(mended(&scrape(self)?))
    }
}

/// Every thread of the daemon has given up all but what it needs.
pub(super) fn privileges(world: &World) -> Result<String> {
    // CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF (capability.h).
    const KEPT: u64 = 1 << 12 | 1 << 38 | 1 << 39;
    let pid = world
        .node
        .as_ref()
        .context("the daemon does not run")?
        .pid();
    let mut threads = 0;
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(entry?.path().join("status"))?;
        for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(set));
            let held = u64::from_str_radix(line.context("no such set")?.trim(), 16)?;
            ensure!(held & !KEPT == 0, "{set} {held:x}");
        }
        ensure!(
            status.contains("NoNewPrivs:\t1"),
            "it could gain privileges"
        );
        threads += 1;
    }
    Ok(format!("bpf, perfmon, net_admin in {threads} threads"))
}
