//! What maps hold, in words: for people who look at a mismatch, and for the page.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;

use totoro_api::Reason;
use totoro_ebpf::abi::{self, Addr, TCP};
use totoro_model::{Span, Timed, World};

/// A key in words.
pub(crate) trait Key {
    fn words(&self) -> String;
}

/// A value in words; times as they are at `now`.
pub(crate) trait Value {
    fn words(&self, now: u64) -> String;
}

/// An address as people write it.
#[must_use]
pub(crate) fn addr(addr: &Addr) -> String {
    let addr = Ipv6Addr::from(*addr);
    addr.to_ipv4_mapped()
        .map_or_else(|| addr.to_string(), |addr| addr.to_string())
}

/// A reason's code, or its number where it has none.
#[must_use]
pub(crate) fn reason(number: u32) -> String {
    (Reason::ALL.iter())
        .find(|reason| reason.number() == number)
        .map_or_else(|| number.to_string(), ToString::to_string)
}

/// An event, but for its time.
#[must_use]
pub(crate) fn event(event: &abi::Event) -> String {
    let (why, tenant, lease) = (reason(event.reason), event.tenant, event.lease);
    let (remote, remote_port) = (addr(&event.remote), event.remote_port);
    let to = port(event.proto, event.port);
    let kind = event.kind;
    format!(
        "kind {kind}, {why}, tenant {tenant}, lease {lease}, {remote} port {remote_port} to {to}"
    )
}

fn port(proto: u8, port: u16) -> String {
    format!("{} {port}", if proto == TCP { "tcp" } else { "udp" })
}

/// A span of time, ns.
fn span(ns: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (3_600_000_000_000, "h"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "µs"),
    ];
    for (unit, name) in UNITS {
        if ns >= unit && ns.is_multiple_of(unit) {
            return format!("{} {name}", ns / unit);
        }
    }
    if ns > 1_000_000 {
        return format!("{:.6} s", ns as f64 / 1e9);
    }
    format!("{ns} ns")
}

fn moment(at: u64, now: u64) -> String {
    match at {
        0 => "never".to_owned(),
        at if at == now => "now".to_owned(),
        at if at > now => format!("in {}", span(at - now)),
        at => format!("{} ago", span(now - at)),
    }
}

fn within(at: Span, now: u64) -> String {
    if at.from == at.to {
        moment(at.from, now)
    } else {
        format!("{} to {}", moment(at.from, now), moment(at.to, now))
    }
}

/// `name value` of each field that is not zero.
fn fields(all: &[(&str, String)]) -> String {
    let said: Vec<String> = (all.iter())
        .filter(|(_, value)| !matches!(value.as_str(), "0" | "0 ns" | "never" | ""))
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    if said.is_empty() {
        "zeros".to_owned()
    } else {
        said.join(", ")
    }
}

impl Key for abi::PortKey {
    fn words(&self) -> String {
        port(self.proto, self.port)
    }
}

impl Key for u32 {
    fn words(&self) -> String {
        self.to_string()
    }
}

impl Key for abi::SourceKey {
    fn words(&self) -> String {
        let kind = match self.kind {
            abi::SOURCE_CONNS => "TCP",
            abi::SOURCE_SITES => "site",
            _ => "UDP",
        };
        format!("{} tenant {} {kind}", addr(&self.prefix), self.tenant)
    }
}

impl Key for abi::FlowKey {
    fn words(&self) -> String {
        format!(
            "{} port {} to {}",
            addr(&self.remote),
            self.remote_port,
            self.port
        )
    }
}

impl Key for abi::OutboundKey {
    fn words(&self) -> String {
        let (remote, local) = (addr(&self.remote), addr(&self.local));
        let (to, from) = (self.remote_port, self.local_port);
        format!("{local} port {from} to {remote} port {to}")
    }
}

impl Key for abi::ControlKey {
    fn words(&self) -> String {
        format!("{} port {}", addr(&self.remote), self.remote_port)
    }
}

impl Key for abi::ReasonKey {
    fn words(&self) -> String {
        format!("tenant {} {}", self.tenant, reason(self.reason))
    }
}

impl Value for u64 {
    fn words(&self, _now: u64) -> String {
        self.to_string()
    }
}

impl Value for Span {
    fn words(&self, now: u64) -> String {
        within(*self, now)
    }
}

impl Value for Timed<u64> {
    fn words(&self, now: u64) -> String {
        fields(&[
            ("count", self.is.to_string()),
            ("last", within(self.at, now)),
        ])
    }
}

impl Value for abi::Lease {
    fn words(&self, now: u64) -> String {
        fields(&[
            ("tenant", self.tenant.to_string()),
            ("lease", self.lease.to_string()),
            (
                "hold",
                if self.hold == 0 {
                    String::new()
                } else {
                    reason(self.hold)
                },
            ),
            ("expires", moment(self.expires_ns, now)),
            ("syn_interval", span(self.syn_interval_ns)),
            ("syn_burst", span(self.syn_burst_ns)),
        ])
    }
}

impl Value for Timed<abi::PortUsage> {
    fn words(&self, now: u64) -> String {
        fields(&[
            ("syn_tat", within(self.at, now)),
            ("conns", self.is.conns.to_string()),
            ("admitted", self.is.admitted.to_string()),
        ])
    }
}

impl Value for abi::Tenant {
    fn words(&self, now: u64) -> String {
        let most = |most: u32| match most {
            abi::UNLIMITED => String::new(),
            0 => "none".to_owned(),
            most => most.to_string(),
        };
        let state = match self.state {
            abi::ACTIVE => "active",
            abi::HELD => "held",
            abi::CUT => "cut",
            _ => "in no state",
        };
        let because = if self.reason == 0 {
            state.to_owned()
        } else {
            format!("{state} ({})", reason(self.reason))
        };
        let rest = fields(&[
            ("max_conns", most(self.max_conns)),
            ("max_flows", most(self.max_flows)),
            ("max_conns_per_source", most(self.max_conns_per_source)),
            ("parent", self.parent.to_string()),
            ("conn_interval", span(self.conn_interval_ns)),
            ("conn_burst", span(self.conn_burst_ns)),
            ("expires", moment(self.expires_ns, now)),
        ]);
        if rest == "zeros" {
            because
        } else {
            format!("{because}, {rest}")
        }
    }
}

impl Value for Timed<abi::Usage> {
    fn words(&self, now: u64) -> String {
        fields(&[
            ("conns", self.is.conns.to_string()),
            ("admitted", self.is.admitted.to_string()),
            ("surplus", self.is.surplus.to_string()),
            ("flows_opened", self.is.flows_opened.to_string()),
            ("conn_tat", moment(self.is.conn_tat_ns, now)),
            ("last", within(self.at, now)),
        ])
    }
}

impl Value for abi::Flow {
    fn words(&self, now: u64) -> String {
        let state = match self.state {
            abi::FLOW_NEW => "new",
            abi::FLOW_ANSWERED => "answered",
            abi::FLOW_RECYCLED => "recycled",
            _ => "confirmed",
        };
        let rest = fields(&[
            ("tenant", self.tenant.to_string()),
            ("parent", self.parent.to_string()),
            ("last", moment(self.last_ns, now)),
        ]);
        format!("{state}, {rest}")
    }
}

impl Value for abi::Control {
    fn words(&self, now: u64) -> String {
        fields(&[
            ("cookie", self.cookie.to_string()),
            ("looks", self.looks.to_string()),
            ("opened", moment(self.opened_ns, now)),
        ])
    }
}

/// All that the maps hold: entries by map and key.
#[must_use]
pub fn entries(world: &World, now: u64) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let config = &world.config;
    let hold = if config.hold == 0 {
        String::new()
    } else {
        reason(config.hold)
    };
    for (name, value) in [
        (
            "abi",
            if config.abi == abi::VERSION {
                "0".to_owned()
            } else {
                format!("{} (another)", config.abi)
            },
        ),
        ("bind_port", config.bind_port.to_string()),
        ("hold", hold),
        ("control_per_source", config.control_per_source.to_string()),
        ("source_interval", span(config.source_interval_ns)),
        ("source_burst", span(config.source_burst_ns)),
        ("max_conns_total", config.max_conns_total.to_string()),
        ("flow_idle", span(config.flow_idle_ns)),
        ("sketch_seed", config.sketch_seed.to_string()),
    ] {
        if !matches!(value.as_str(), "0" | "0 ns" | "") {
            all.insert(format!("CONFIG {name}"), value);
        }
    }
    for (proto, number) in &world.pool {
        all.insert(format!("POOL {}", port(*proto, *number)), String::new());
    }
    for local in &world.locals {
        all.insert(format!("LOCALS {}", addr(local)), String::new());
    }
    for ((length, prefix), ban) in &world.bans {
        // As people write it: of an IPv4 address, 96 bits are the mapping's.
        let is_v4 = *length >= 96 && Ipv6Addr::from(*prefix).to_ipv4_mapped().is_some();
        let length = if is_v4 { length - 96 } else { *length };
        let until = if ban.until_ns == 0 {
            String::new()
        } else {
            format!("until {}", moment(ban.until_ns, now))
        };
        all.insert(format!("BANS {}/{length}", addr(prefix)), until);
    }
    map(&mut all, "PORTS", &world.ports, now);
    map(&mut all, "PORT_USAGE", &world.port_usage, now);
    map(&mut all, "TENANTS", &world.tenants, now);
    map(&mut all, "USAGE", &world.usage, now);
    map(&mut all, "FLOWS_CLOSED", &world.flows_closed, now);
    map(&mut all, "SOURCES", &world.sources, now);
    map(&mut all, "FLOWS", &world.flows, now);
    map(&mut all, "CANDIDATES", &world.candidates, now);
    let noted = world.answered.iter();
    all.extend(noted.map(|flow| (format!("ANSWERED {}", flow.words()), String::new())));
    map(&mut all, "OUTBOUND", &world.outbound, now);
    map(&mut all, "CONTROL", &world.control, now);
    map(&mut all, "SKETCH", &world.sketch, now);
    map(&mut all, "REASONS", &world.reasons, now);
    all
}

fn map<K: Key, V: Value>(
    all: &mut BTreeMap<String, String>,
    name: &str,
    entries: &HashMap<K, V>,
    now: u64,
) {
    for (key, value) in entries {
        all.insert(format!("{name} {}", key.words()), value.words(now));
    }
}
