//! `inspect`: what the kernel holds, with names. Reads the pins, so it works beside a running daemon
//! and without one.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use totoro_api::Reason;
use totoro_ebpf::abi;

use super::table::{Table, json};
use crate::config::Config;
use crate::kernel::{Inspector, boot_ns, from_addr};

/// What to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// Leased ports.
    #[default]
    Ports,
    /// Tenants and their counts.
    Tenants,
    /// Live TCP user connections.
    Conns,
    /// Live UDP flows.
    Flows,
    /// Refusals by tenant and reason.
    Reasons,
}

/// Tenants' ids by their number in the kernel.
pub(super) type Names = BTreeMap<u32, String>;

#[derive(Serialize)]
struct Port {
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
struct Tenant {
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
struct Conn {
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
struct Flow {
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
struct Refusal {
    number: u32,
    tenant: String,
    reason: Reason,
    count: u64,
    last_s: u64,
}

/// Prints it, as a table or as JSON.
pub(super) fn run(config: &Config, what: What, as_json: bool, names: &Names) -> Result<()> {
    let inspector = Inspector::open(&config.pin_root)?;
    match what {
        What::Ports => ports(&inspector, as_json, names),
        What::Tenants => tenants(&inspector, as_json, names),
        What::Conns => conns(&inspector, as_json, names),
        What::Flows => flows(&inspector, as_json, names),
        What::Reasons => reasons(&inspector, as_json, names),
    }
}

/// A tenant's id; nobody's and unknown ones are told apart.
fn name(names: &Names, number: u32) -> String {
    match names.get(&number) {
        Some(name) => name.clone(),
        None if number == 0 => "-".to_owned(),
        None => format!("#{number}"),
    }
}

fn protocol(proto: u8) -> &'static str {
    if proto == abi::TCP { "tcp" } else { "udp" }
}

fn seconds_since(at_ns: u64) -> u64 {
    boot_ns().saturating_sub(at_ns) / 1_000_000_000
}

fn code(reason: Option<Reason>) -> String {
    reason.map_or_else(|| "-".to_owned(), |reason| reason.to_string())
}

fn ports(inspector: &Inspector, as_json: bool, names: &Names) -> Result<()> {
    let mut all = Vec::new();
    for (key, lease, usage) in inspector.ports()? {
        let traffic = inspector.traffic(lease.tenant, key)?;
        all.push(Port {
            proto: protocol(key.proto),
            port: key.port,
            lease: lease.lease,
            number: lease.tenant,
            tenant: name(names, lease.tenant),
            conns: usage.conns,
            admitted: usage.admitted,
            bytes_in: traffic.bytes_in,
            bytes_out: traffic.bytes_out,
            held: Reason::from_number(lease.hold),
        });
    }
    if as_json {
        return json(&all);
    }
    let mut table = Table::new([
        "PROTO", "PORT", "TENANT", "LEASE", "CONNS", "ADMITTED", "IN", "OUT", "HELD",
    ]);
    for port in all {
        table.row([
            port.proto.to_owned(),
            port.port.to_string(),
            port.tenant,
            port.lease.to_string(),
            port.conns.to_string(),
            port.admitted.to_string(),
            port.bytes_in.to_string(),
            port.bytes_out.to_string(),
            code(port.held),
        ]);
    }
    table.print();
    Ok(())
}

fn tenants(inspector: &Inspector, as_json: bool, names: &Names) -> Result<()> {
    let mut all = Vec::new();
    for (number, tenant, counts) in inspector.tenants()? {
        let state = match tenant.state {
            abi::ACTIVE => "active",
            abi::HELD => "held",
            abi::CUT => "cut",
            _ => "unknown",
        };
        let left = i128::from(tenant.expires_ns) - i128::from(boot_ns());
        all.push(Tenant {
            number,
            tenant: name(names, number),
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
    if as_json {
        return json(&all);
    }
    let mut table = Table::new([
        "NUMBER", "TENANT", "STATE", "REASON", "CONNS", "FLOWS", "ADMITTED", "SURPLUS", "EXPIRES",
    ]);
    for tenant in all {
        table.row([
            tenant.number.to_string(),
            tenant.tenant,
            tenant.state.to_owned(),
            code(tenant.reason),
            format!("{}/{}", tenant.conns, tenant.max_conns),
            format!("{}/{}", tenant.flows, tenant.max_flows),
            tenant.admitted.to_string(),
            tenant.surplus.to_string(),
            tenant
                .expires_in_s
                .map_or_else(|| "-".to_owned(), |s| format!("{s} s")),
        ]);
    }
    table.print();
    Ok(())
}

fn conns(inspector: &Inspector, as_json: bool, names: &Names) -> Result<()> {
    let connections = inspector.connections()?;
    let all: Vec<Conn> = (connections.iter())
        .map(|connection| {
            let conn = &connection.conn;
            Conn {
                number: conn.tenant,
                tenant: name(names, conn.tenant),
                user: (from_addr(&conn.remote), conn.remote_port).into(),
                node: (from_addr(&conn.local), conn.local_port).into(),
                lease: conn.lease,
                age_s: seconds_since(conn.opened_ns),
                surplus: conn.flags & abi::SURPLUS != 0,
                cookie: connection.cookie,
            }
        })
        .collect();
    if as_json {
        return json(&all);
    }
    let mut table = Table::new(["TENANT", "USER", "NODE", "LEASE", "AGE", "SURPLUS"]);
    for conn in all {
        table.row([
            conn.tenant,
            conn.user.to_string(),
            conn.node.to_string(),
            conn.lease.to_string(),
            format!("{} s", conn.age_s),
            conn.surplus.to_string(),
        ]);
    }
    table.print();
    Ok(())
}

fn flows(inspector: &Inspector, as_json: bool, names: &Names) -> Result<()> {
    let flows = inspector.flows()?;
    let all: Vec<Flow> = (flows.iter())
        .map(|(key, flow)| Flow {
            number: flow.tenant,
            tenant: name(names, flow.tenant),
            user: (from_addr(&key.remote), key.remote_port).into(),
            port: key.port,
            state: if flow.state == abi::FLOW_CONFIRMED {
                "confirmed"
            } else {
                "answered"
            },
            age_s: seconds_since(flow.opened_ns),
            idle_s: seconds_since(flow.last_ns),
            bytes_in: flow.bytes_in,
            bytes_out: flow.bytes_out,
        })
        .collect();
    if as_json {
        return json(&all);
    }
    let mut table = Table::new([
        "TENANT", "USER", "PORT", "STATE", "AGE", "IDLE", "IN", "OUT",
    ]);
    for flow in all {
        table.row([
            flow.tenant,
            flow.user.to_string(),
            flow.port.to_string(),
            flow.state.to_owned(),
            format!("{} s", flow.age_s),
            format!("{} s", flow.idle_s),
            flow.bytes_in.to_string(),
            flow.bytes_out.to_string(),
        ]);
    }
    table.print();
    Ok(())
}

fn reasons(inspector: &Inspector, as_json: bool, names: &Names) -> Result<()> {
    let refused = inspector.refused()?;
    let all: Vec<Refusal> = (refused.iter())
        .map(|refused| Refusal {
            number: refused.tenant,
            tenant: name(names, refused.tenant),
            reason: refused.reason,
            count: refused.count,
            last_s: seconds_since(refused.last_ns),
        })
        .collect();
    if as_json {
        return json(&all);
    }
    let mut table = Table::new(["TENANT", "REASON", "COUNT", "LAST"]);
    for refusal in all {
        table.row([
            refusal.tenant,
            refusal.reason.to_string(),
            refusal.count.to_string(),
            format!("{} s ago", refusal.last_s),
        ]);
    }
    table.print();
    Ok(())
}
