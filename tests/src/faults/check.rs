//! What must hold after each round: kernel, sockets, frps, daemon and trail tell the same.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use totoro_api::wire::event::{AuditPage, kind};

use super::Look;
use super::machine::{MAX_CLIENTS, Machine};
use crate::lab::{Netns, Place};
use crate::story::frps::live_proxies;
use crate::story::health::{mended, scrape};

/// What a round's checks counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) conns: u64,
    pub(super) leases: usize,
    /// Records and truth that differed since the daemon's start, by kind.
    pub(super) mended: BTreeMap<String, u64>,
}

/// What is remembered from check to check.
#[derive(Debug, Default)]
pub(super) struct Check {
    cursor: Option<String>,
    /// By spool: the last seq.
    pub(super) spools: BTreeMap<String, u64>,
    /// Events of the node in the trail.
    pub(super) events: u64,
    /// By kind.
    pub(super) kinds: BTreeMap<String, u64>,
    opened: BTreeSet<String>,
    closed: BTreeSet<String>,
    /// Looks at the limits under load.
    pub(super) samples: u64,
}

impl Check {
    /// Under load: nobody has more than they may.
    pub(super) fn sample(&mut self, world: Look<'_>) -> Result<()> {
        self.samples += 1;
        for row in world.inspect("tenants")? {
            let (conns, most) = (number(&row, "conns")?, number(&row, "max_conns")?);
            ensure!(conns <= most, "more than max_conns: {row}");
        }
        Ok(())
    }

    /// Everything.
    pub(super) fn all(&mut self, machine: &Machine) -> Result<Counted> {
        let world = &machine.world;
        self.sample(world)?;
        let (clients, invites) = machine.expected();
        let ports = world.inspect("ports")?;
        let conns = counts(
            world.lab.ns(Place::Node),
            &ports,
            &world.inspect("tenants")?,
        )?;
        let leases: BTreeSet<(String, u64)> = ports
            .iter()
            .map(|row| Ok((text(row, "proto")?, number(row, "port")?)))
            .collect::<Result<_>>()?;
        let proxies = proxies(world)?;
        ensure!(
            leases == proxies,
            "leases {leases:?}, frps has the proxies {proxies:?}"
        );
        ensure!(leases.len() == 2 * clients, "{} leases", leases.len());
        self.read_trail(world)?;
        let sessions = sessions(world)?;
        let tenants: BTreeMap<&String, usize> =
            sessions
                .iter()
                .fold(BTreeMap::new(), |mut all, (_, tenant)| {
                    *all.entry(tenant).or_default() += 1;
                    all
                });
        ensure!(
            tenants.len() == invites && tenants.values().all(|count| *count <= MAX_CLIENTS),
            "sessions by tenant: {tenants:?}"
        );
        let live: BTreeSet<String> = sessions.into_iter().map(|(id, _)| id).collect();
        ensure!(live.len() == clients, "{} sessions", live.len());
        let told: BTreeSet<String> = self.opened.difference(&self.closed).cloned().collect();
        ensure!(
            told == live,
            "the trail has the sessions {told:?}, the node {live:?}"
        );
        let figures = scrape(world)?;
        for series in ["spool_events", "untidy", "missing"] {
            let value = figure(&figures, &format!("totoro_node_{series}"))?;
            ensure!(value == 0, "{series}: {value}");
        }
        Ok(Counted {
            conns,
            leases: leases.len(),
            mended: mended(&figures),
        })
    }

    /// Reads on in the trail: by spool, each seq once and in order.
    fn read_trail(&mut self, world: Look<'_>) -> Result<()> {
        let admin = world.admin()?;
        loop {
            let cursor = self.cursor.as_ref().map(|at| format!("&cursor={at}"));
            let path = format!(
                "/admin/audit?limit=1000&node={}{}",
                world.node_id,
                cursor.unwrap_or_default()
            );
            let page: AuditPage = admin.get(&path)?;
            for event in page.items {
                if let (Some(spool), Some(seq)) = (event.spool, event.seq) {
                    let last = self.spools.entry(spool.clone()).or_default();
                    ensure!(
                        seq == *last + 1,
                        "spool {spool}: {seq} ({}) after {last}",
                        event.subject.kind
                    );
                    *last = seq;
                    self.events += 1;
                    *self.kinds.entry(event.subject.kind.clone()).or_default() += 1;
                    let session = event.subject.session;
                    match event.subject.kind.as_str() {
                        kind::SESSION_OPENED => self.opened.extend(session),
                        kind::SESSION_CLOSED => self.closed.extend(session),
                        _ => {}
                    }
                }
                self.cursor = Some(event.id);
            }
            if page.next.is_none() {
                return Ok(());
            }
        }
    }
}

/// The kernel's counts, compared with the sockets that inet_diag lists; the sum.
fn counts(ns: &Netns, ports: &[Value], tenants: &[Value]) -> Result<u64> {
    let mut sockets = BTreeMap::<u64, u64>::new();
    for port in listed(ns)? {
        *sockets.entry(port).or_default() += 1;
    }
    let mut by_tenant = BTreeMap::<u64, u64>::new();
    for row in ports.iter().filter(|row| row["proto"] == "tcp") {
        let (port, conns) = (number(row, "port")?, number(row, "conns")?);
        let there = sockets.remove(&port).unwrap_or(0);
        ensure!(
            conns == there,
            "port {port}: {conns} are counted, inet_diag has {there}"
        );
        *by_tenant.entry(number(row, "number")?).or_default() += conns;
    }
    ensure!(
        sockets.is_empty(),
        "connections to ports without a lease: {sockets:?}"
    );
    for row in tenants {
        let (tenant, conns) = (number(row, "number")?, number(row, "conns")?);
        // The canary and the sum of anonymous tenants have no port here.
        let there = by_tenant.get(&tenant).copied().unwrap_or(0);
        ensure!(
            conns == there,
            "tenant {tenant}: {conns} are counted, {there} by its ports"
        );
    }
    Ok(by_tenant.values().sum())
}

/// The pool's ports of live TCP sockets, one for each.
fn listed(ns: &Netns) -> Result<Vec<u64>> {
    let output = ns.run(|| {
        Command::new("ss")
            .args(["-Htan", "exclude", "listening", "exclude", "time-wait"])
            .args(["exclude", "syn-recv", "sport", ">=", "20000", "and"])
            .args(["sport", "<=", "20099"])
            .output()
            .context("run ss")
    })?;
    ensure!(
        output.status.success(),
        "ss: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let port = |line: &str| {
        let local = line.split_whitespace().nth(3)?;
        local.rsplit_once(':')?.1.parse().ok()
    };
    let ports = text.lines().map(|line| port(line).context(line.to_owned()));
    ports.collect()
}

/// frps's live proxies.
fn proxies(world: Look<'_>) -> Result<BTreeSet<(String, u64)>> {
    let mut all = BTreeSet::new();
    for protocol in ["tcp", "udp"] {
        for proxy in live_proxies(world, protocol)? {
            all.insert((protocol.to_owned(), number(&proxy["conf"], "remotePort")?));
        }
    }
    Ok(all)
}

/// The sessions whose frpc is there: id and tenant.
fn sessions(world: Look<'_>) -> Result<Vec<(String, String)>> {
    let told = world.node_cli(&["sessions", "--json"])?.ok()?;
    let all: Vec<Value> = serde_json::from_str(&told).context("read the sessions")?;
    all.iter()
        .filter(|line| line["connected"] == true)
        .map(|line| Ok((text(line, "id")?, text(line, "tenant")?)))
        .collect()
}

fn number(row: &Value, field: &str) -> Result<u64> {
    let value = row[field].as_u64();
    value.with_context(|| format!("no number {field} in {row}"))
}

fn text(row: &Value, field: &str) -> Result<String> {
    let value = row[field].as_str();
    let value = value.with_context(|| format!("no text {field} in {row}"))?;
    Ok(value.to_owned())
}

fn figure(figures: &str, series: &str) -> Result<u64> {
    let mut lines = figures.lines();
    let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = value.with_context(|| format!("no {series}"))?;
    value.parse().with_context(|| format!("{series} {value}"))
}
