//! The maps that are read as a whole.

use std::collections::HashMap;
use std::path::Path;

use totoro_api::Reason;
use totoro_ebpf::abi;
use totoro_ebpf::logic::admit::live_flows;

use super::batch::Table;
use super::{Connection, Refused, Result, TenantCounts};

/// Each beside the handle that is written by ([`super::maps::Maps`]).
pub(super) struct Tables {
    pub(super) ports: Table<abi::PortKey, abi::Lease>,
    pub(super) port_usage: Table<abi::PortKey, abi::PortUsage>,
    pub(super) tenants: Table<u32, abi::Tenant>,
    pub(super) usage: Table<u32, abi::Usage>,
    pub(super) flows_closed: Table<u32, abi::FlowsClosed>,
    pub(super) traffic: Table<abi::TrafficKey, abi::Traffic>,
    pub(super) conns: Table<u64, abi::Conn>,
    pub(super) sources: Table<abi::SourceKey, abi::Source>,
    pub(super) flows: Table<abi::FlowKey, abi::Flow>,
    pub(super) candidates: Table<abi::FlowKey, abi::Flow>,
    pub(super) reasons: Table<abi::ReasonKey, abi::ReasonCount>,
    pub(super) control: Table<abi::ControlKey, abi::Control>,
}

impl Tables {
    /// Opens the pins.
    pub(super) fn from_pins(dir: &Path) -> Result<Tables> {
        Ok(Tables {
            ports: Table::open(&dir.join("PORTS"))?,
            port_usage: Table::open(&dir.join("PORT_USAGE"))?,
            tenants: Table::open(&dir.join("TENANTS"))?,
            usage: Table::open(&dir.join("USAGE"))?,
            flows_closed: Table::open(&dir.join("FLOWS_CLOSED"))?,
            traffic: Table::open(&dir.join("TRAFFIC"))?,
            conns: Table::open(&dir.join("CONNS"))?,
            sources: Table::open(&dir.join("SOURCES"))?,
            flows: Table::open(&dir.join("FLOWS"))?,
            candidates: Table::open(&dir.join("CANDIDATES"))?,
            reasons: Table::open(&dir.join("REASONS"))?,
            control: Table::open(&dir.join("CONTROL"))?,
        })
    }

    /// Live user connections.
    pub(super) fn connections(&self) -> Result<Vec<Connection>> {
        let mut all = Vec::new();
        self.conns.each(|cookie, conn| {
            let conn = conn[0];
            all.push(Connection { cookie, conn });
        })?;
        Ok(all)
    }

    /// All tenants' counts, by their numbers.
    pub(super) fn counts(&self) -> Result<HashMap<u32, TenantCounts>> {
        let mut counts = HashMap::new();
        self.usage.each(|tenant, usage| {
            let usage = usage[0];
            let flows = usage.flows_opened;
            let counted = TenantCounts {
                usage,
                flows,
                flows_closed: 0,
            };
            counts.insert(tenant, counted);
        })?;
        // Afterwards: of flows that take each other's place, what ended meanwhile is not among those that began, and
        // no more are told than may live.
        self.flows_closed.each(|tenant, closed| {
            if let Some(counts) = counts.get_mut(&tenant) {
                counts.flows_closed = closed[0];
                counts.flows = live_flows(counts.usage.flows_opened, closed[0]);
            }
        })?;
        Ok(counts)
    }

    /// All refusal counters, sorted by tenant; numbers that this build has no reason for count as
    /// `internal`.
    pub(super) fn refused(&self) -> Result<Vec<Refused>> {
        let mut refused = Vec::new();
        self.reasons.each(|key, values| {
            let (count, last_ns) = values.iter().fold((0, 0), |(count, last), value| {
                (count + value.count, last.max(value.last_ns))
            });
            refused.push(Refused {
                tenant: key.tenant,
                reason: Reason::from_number(key.reason).unwrap_or(Reason::Internal),
                count,
                last_ns,
            });
        })?;
        refused.sort_by_key(|one| (one.tenant, one.reason));
        Ok(refused)
    }
}
