//! The lines of `inspect`, read from the maps.

use std::net::SocketAddr;

use anyhow::Result;
use serde::Serialize;
use totoro_api::Reason;
use totoro_ebpf::abi;

use super::{Names, Row, Source};
use crate::kernel::{boot_ns, from_addr};

#[derive(Serialize)]
pub(super) struct Port {
    proto: &'static str,
    port: u16,
    lease: u64,
    number: u32,
    tenant: String,
    conns: u64,
    admitted: u64,
    bytes_in: u64,
    bytes_out: u64,
    held: Option<Reason>,
}

#[derive(Serialize)]
pub(super) struct Tenant {
    number: u32,
    tenant: String,
    state: &'static str,
    reason: Option<Reason>,
    epoch: u32,
    conns: u64,
    max_conns: u32,
    flows: u64,
    max_flows: u32,
    admitted: u64,
    surplus: u64,
    expires_in_s: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct Conn {
    number: u32,
    tenant: String,
    user: SocketAddr,
    node: SocketAddr,
    lease: u64,
    age_s: u64,
    surplus: bool,
    cookie: u64,
}

#[derive(Serialize)]
pub(super) struct Flow {
    number: u32,
    tenant: String,
    user: SocketAddr,
    port: u16,
    state: &'static str,
    age_s: u64,
    idle_s: u64,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Serialize)]
pub(super) struct Refusal {
    number: u32,
    tenant: String,
    reason: Reason,
    count: u64,
    last_s: u64,
}

#[derive(Serialize)]
pub(super) struct Origin {
    number: u32,
    tenant: String,
    prefix: String,
    /// `conns` (TCP) or `flows` (UDP).
    kind: &'static str,
    conns: u64,
    last_s: u64,
}

/// A tenant's id; nobody's and unknown ones are told apart.
pub(super) fn name(names: &Names, number: u32) -> String {
    match names.get(&number) {
        Some(name) => name.clone(),
        None if number == 0 => "-".to_owned(),
        None => format!("#{number}"),
    }
}

pub(super) fn protocol(proto: u8) -> &'static str {
    if proto == abi::TCP { "tcp" } else { "udp" }
}

fn seconds_since(at_ns: u64) -> u64 {
    boot_ns().saturating_sub(at_ns) / 1_000_000_000
}

fn code(reason: Option<Reason>) -> String {
    reason.map_or_else(|| "-".to_owned(), |reason| reason.to_string())
}

impl Row for Port {
    const HEAD: &'static [&'static str] = &[
        "PROTO", "PORT", "TENANT", "LEASE", "CONNS", "ADMITTED", "IN", "OUT", "HELD",
    ];

    fn cells(self) -> Vec<String> {
        vec![
            self.proto.to_owned(),
            self.port.to_string(),
            self.tenant,
            self.lease.to_string(),
            self.conns.to_string(),
            self.admitted.to_string(),
            self.bytes_in.to_string(),
            self.bytes_out.to_string(),
            code(self.held),
        ]
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl Row for Tenant {
    const HEAD: &'static [&'static str] = &[
        "NUMBER", "TENANT", "STATE", "REASON", "CONNS", "FLOWS", "ADMITTED", "SURPLUS", "EXPIRES",
    ];

    fn cells(self) -> Vec<String> {
        vec![
            self.number.to_string(),
            self.tenant,
            self.state.to_owned(),
            code(self.reason),
            format!("{}/{}", self.conns, self.max_conns),
            format!("{}/{}", self.flows, self.max_flows),
            self.admitted.to_string(),
            self.surplus.to_string(),
            self.expires_in_s
                .map_or_else(|| "-".to_owned(), |s| format!("{s} s")),
        ]
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl Row for Conn {
    const HEAD: &'static [&'static str] = &["TENANT", "USER", "NODE", "LEASE", "AGE", "SURPLUS"];

    fn cells(self) -> Vec<String> {
        vec![
            self.tenant,
            self.user.to_string(),
            self.node.to_string(),
            self.lease.to_string(),
            format!("{} s", self.age_s),
            self.surplus.to_string(),
        ]
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl Row for Flow {
    const HEAD: &'static [&'static str] = &[
        "TENANT", "USER", "PORT", "STATE", "AGE", "IDLE", "IN", "OUT",
    ];

    fn cells(self) -> Vec<String> {
        vec![
            self.tenant,
            self.user.to_string(),
            self.port.to_string(),
            self.state.to_owned(),
            format!("{} s", self.age_s),
            format!("{} s", self.idle_s),
            self.bytes_in.to_string(),
            self.bytes_out.to_string(),
        ]
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl Row for Origin {
    const HEAD: &'static [&'static str] = &["TENANT", "SOURCE", "OF", "COUNT", "LAST"];

    fn cells(self) -> Vec<String> {
        vec![
            self.tenant,
            self.prefix,
            self.kind.to_owned(),
            self.conns.to_string(),
            format!("{} s ago", self.last_s),
        ]
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl Row for Refusal {
    const HEAD: &'static [&'static str] = &["TENANT", "REASON", "COUNT", "LAST"];

    fn cells(self) -> Vec<String> {
        vec![
            self.tenant,
            self.reason.to_string(),
            self.count.to_string(),
            format!("{} s ago", self.last_s),
        ]
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

impl Source<'_> {
    pub(super) fn ports(&self) -> Result<Vec<Port>> {
        let mut all = Vec::new();
        for (key, lease, usage) in self.inspector.ports()? {
            let traffic = self.inspector.traffic(lease.tenant, key)?;
            all.push(Port {
                proto: protocol(key.proto),
                port: key.port,
                lease: lease.lease,
                number: lease.tenant,
                tenant: name(self.names, lease.tenant),
                conns: usage.conns,
                admitted: usage.admitted,
                bytes_in: traffic.bytes_in,
                bytes_out: traffic.bytes_out,
                held: Reason::from_number(lease.hold),
            });
        }
        Ok(all)
    }

    pub(super) fn tenants(&self) -> Result<Vec<Tenant>> {
        let mut all = Vec::new();
        for (number, tenant, counts) in self.inspector.tenants()? {
            let state = match tenant.state {
                abi::ACTIVE => "active",
                abi::HELD => "held",
                abi::CUT => "cut",
                _ => "unknown",
            };
            let left = i128::from(tenant.expires_ns) - i128::from(boot_ns());
            all.push(Tenant {
                number,
                tenant: name(self.names, number),
                state,
                reason: Reason::from_number(tenant.reason),
                epoch: tenant.epoch,
                conns: counts.usage.conns,
                max_conns: tenant.max_conns,
                flows: counts.flows,
                max_flows: tenant.max_flows,
                admitted: counts.usage.admitted,
                surplus: counts.usage.surplus,
                expires_in_s: (tenant.expires_ns != 0)
                    .then(|| i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX)),
            });
        }
        Ok(all)
    }

    pub(super) fn conns(&self) -> Result<Vec<Conn>> {
        let connections = self.inspector.connections()?;
        let row = |connection: &crate::kernel::Connection| {
            let conn = &connection.conn;
            Conn {
                number: conn.tenant,
                tenant: name(self.names, conn.tenant),
                user: (from_addr(&conn.remote), conn.remote_port).into(),
                node: (from_addr(&conn.local), conn.local_port).into(),
                lease: conn.lease,
                age_s: seconds_since(conn.opened_ns),
                surplus: conn.flags & abi::SURPLUS != 0,
                cookie: connection.cookie,
            }
        };
        Ok(connections.iter().map(row).collect())
    }

    pub(super) fn flows(&self) -> Result<Vec<Flow>> {
        let flows = self.inspector.flows()?;
        let row = |(key, flow): &(abi::FlowKey, abi::Flow)| Flow {
            number: flow.tenant,
            tenant: name(self.names, flow.tenant),
            user: (from_addr(&key.remote), key.remote_port).into(),
            port: key.port,
            state: match flow.state {
                abi::FLOW_CONFIRMED => "confirmed",
                abi::FLOW_RECYCLED => "recycled",
                _ => "answered",
            },
            age_s: seconds_since(flow.opened_ns),
            idle_s: seconds_since(flow.last_ns),
            bytes_in: flow.bytes_in,
            bytes_out: flow.bytes_out,
        };
        Ok(flows.iter().map(row).collect())
    }

    /// The most connections first; those of control connections to frps are under no tenant.
    pub(super) fn sources(&self) -> Result<Vec<Origin>> {
        let mut all: Vec<Origin> = self
            .inspector
            .sources()?
            .into_iter()
            .filter(|(_, source)| source.conns > 0)
            .map(|(key, source)| Origin {
                number: key.tenant,
                tenant: name(self.names, key.tenant),
                prefix: source_prefix(key.kind, &key.prefix),
                kind: match key.kind {
                    abi::SOURCE_FLOWS => "flows",
                    abi::SOURCE_SITES => "site",
                    _ => "conns",
                },
                conns: source.conns,
                last_s: seconds_since(source.last_ns),
            })
            .collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.conns));
        Ok(all)
    }

    pub(super) fn reasons(&self) -> Result<Vec<Refusal>> {
        let refused = self.inspector.refused()?;
        let row = |refused: &crate::kernel::Refused| Refusal {
            number: refused.tenant,
            tenant: name(self.names, refused.tenant),
            reason: refused.reason,
            count: refused.count,
            last_s: seconds_since(refused.last_ns),
        };
        Ok(refused.iter().map(row).collect())
    }
}

/// A key of `SOURCES` as people write it: an IPv4 address, or an IPv6 /64; of a site, its /48.
fn source_prefix(kind: u32, prefix: &abi::Addr) -> String {
    let length = if kind == abi::SOURCE_SITES { 48 } else { 64 };
    match from_addr(prefix) {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("{v6}/{length}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::to_addr;

    #[test]
    fn sources_as_people_write_them() {
        let of = |kind, text: &str| source_prefix(kind, &to_addr(text.parse().unwrap()));
        for kind in [abi::SOURCE_CONNS, abi::SOURCE_FLOWS] {
            assert_eq!(of(kind, "192.0.2.7"), "192.0.2.7");
            assert_eq!(of(kind, "2001:db8:1:2::"), "2001:db8:1:2::/64");
        }
        assert_eq!(of(abi::SOURCE_SITES, "2001:db8:1::"), "2001:db8:1::/48");
    }
}
