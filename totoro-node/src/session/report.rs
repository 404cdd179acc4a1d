//! What the desk tells of itself: to the control plane, and to the operator on the local socket.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use totoro_api::Reason;
use totoro_api::ports::Protocol;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::node::{LeaseUsage, SessionUsage, TenantUsage};
use totoro_ebpf::abi::CANARY;

use super::bans::kept;
use super::desk::{Desk, Inner};
use super::gate::Gate;
use super::model::Tenant;
use super::ports::port_key;
use crate::kernel::{Refused, TenantCounts, boot_ns};
use crate::store::Changes;

/// The desk's part of a heartbeat.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// frpc sessions now.
    pub sessions: u32,
    /// Leases now.
    pub leases: u32,
    /// Free ports of the pool per protocol.
    pub free_ports: BTreeMap<String, u32>,
    /// TCP user connections now.
    pub conns: u64,
    /// UDP flows now.
    pub flows: u64,
    /// TCP user connections admitted.
    pub admitted: u64,
    /// Refusals by reason, the kernel's and the plugin's.
    pub refused: BTreeMap<String, u64>,
    /// Per tenant, the busiest first, as many as were wanted.
    pub tenants: Vec<TenantUsage>,
    /// How many tenants are left out.
    pub left: usize,
}

/// Tenants that are looked at between two times that others have the desk.
const CHUNK: usize = 64;

/// One session as the local socket shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLine {
    /// Its id.
    pub id: String,
    /// The invite's id, or `public:<prefix>`.
    pub tenant: String,
    /// Where frpc comes from.
    pub client: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// Whether frpc's connection lives.
    pub connected: bool,
    /// frpc's version.
    pub frpc_version: String,
    /// `name type/port`, one each.
    pub proxies: Vec<String>,
}

impl Desk {
    /// Everything that a heartbeat tells of sessions, leases and tenants: those with user connections
    /// and flows first, then those with sessions, for as long as `wanted` takes them. What is left out is
    /// not looked at, and nobody waits for the desk for long.
    ///
    /// # Errors
    /// The kernel's maps can't be read.
    pub fn report(&self, mut wanted: impl FnMut(&TenantUsage) -> bool) -> Result<Report> {
        let kernel = Counted::read(&*self.kernel)?;
        let (mut report, order) = {
            let mut inner = self.lock();
            inner
                .passed
                .keep(|tenant| kernel.tenants.contains_key(&tenant));
            (self.sums(&inner, &kernel), ranked(&inner, &kernel))
        };
        for chunk in order.chunks(CHUNK) {
            let mut inner = self.lock();
            for id in chunk {
                let usage = self.usage(&mut inner, id, &kernel)?;
                if !wanted(&usage) {
                    report.left = order.len() - report.tenants.len();
                    return Ok(report);
                }
                report.tenants.push(usage);
            }
        }
        Ok(report)
    }

    /// The same without each tenant's part.
    ///
    /// # Errors
    /// The kernel's maps can't be read.
    pub fn totals(&self) -> Result<Report> {
        let kernel = Counted::read(&*self.kernel)?;
        Ok(self.sums(&self.lock(), &kernel))
    }

    /// What needs no look at a lease.
    fn sums(&self, inner: &Inner, kernel: &Counted) -> Report {
        let now_ms = self.clock.now_ms();
        let mut report = Report {
            sessions: inner.sessions.connected().len() as u32,
            leases: inner.ports.leases().len() as u32,
            ..Report::default()
        };
        for tenant in inner.tenants.values() {
            let counts = kernel.of(tenant);
            report.conns += counts.usage.conns;
            report.flows += counts.flows;
            report.admitted += counts.usage.admitted;
        }
        for protocol in Protocol::ALL {
            let free = inner.ports.free(protocol, &inner.policy.node.pool, now_ms);
            report.free_ports.insert(protocol.to_string(), free as u32);
        }
        let counters = kernel.refused.iter();
        let kernels = counters
            .filter(|counter| counter.tenant != CANARY)
            .map(|counter| (counter.reason, counter.count));
        let plugin = inner
            .denied
            .values()
            .flatten()
            .map(|(reason, count)| (*reason, *count));
        for (reason, count) in kernels.chain(plugin) {
            *report.refused.entry(reason.code().to_owned()).or_default() += count;
        }
        report
    }

    /// One tenant's part.
    fn usage(&self, inner: &mut Inner, id: &str, kernel: &Counted) -> Result<TenantUsage> {
        let tenant = inner.tenants.get(id);
        let mut usage = TenantUsage {
            tenant: id.to_owned(),
            refused: inner.denied.get(id).cloned().unwrap_or_default(),
            ..TenantUsage::default()
        };
        if let Some(tenant) = tenant {
            kernel.tell(tenant, &mut usage);
        }
        for (_, session) in inner.sessions.of_owner(id) {
            if session.connected() {
                usage.sessions.push(SessionUsage {
                    id: session.id.clone(),
                    client: session.client.to_string(),
                    since: rfc3339(session.opened_ms / 1000),
                    frpc_version: session.frpc_version.clone(),
                });
            }
        }
        let leases: Vec<_> = inner.ports.of_tenant(id).collect();
        if let Some(tenant) = tenant {
            let read = || {
                leases
                    .iter()
                    .try_fold([0; 2], |[bytes_in, bytes_out], (port, _)| {
                        let traffic = self.kernel.traffic(tenant.number, port_key(*port))?;
                        Ok([bytes_in + traffic.bytes_in, bytes_out + traffic.bytes_out])
                    })
            };
            let numbers = leases.iter().map(|(_, lease)| lease.number);
            let counts = kernel.of(tenant);
            let [bytes_in, bytes_out] =
                (inner.passed).of(tenant.number, &counts, numbers, kernel.at_ns, read)?;
            usage.bytes_in += bytes_in;
            usage.bytes_out += bytes_out;
        }
        for (port, lease) in leases {
            usage.leases.push(LeaseUsage {
                proxy: lease.name().to_owned(),
                protocol: port.0.to_string(),
                address: self.rules.host.clone(),
                port: port.1,
                since: rfc3339(lease.since_ms / 1000),
            });
        }
        Ok(usage)
    }

    /// The sessions, for the operator; each tenant's together.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionLine> {
        let inner = self.lock();
        let line = |(run_id, session): (&Arc<str>, &super::model::Session)| SessionLine {
            id: session.id.clone(),
            tenant: session.tenant.to_string(),
            client: session.client.to_string(),
            since: rfc3339(session.opened_ms / 1000),
            connected: session.connected(),
            frpc_version: session.frpc_version.clone(),
            proxies: inner
                .ports
                .of_session(run_id)
                .into_iter()
                .filter_map(|port| Some((port, inner.ports.leases().get(&port)?)))
                .map(|((protocol, port), lease)| format!("{} {protocol}/{port}", lease.name()))
                .collect(),
        };
        let mut lines: Vec<SessionLine> = inner.sessions.iter().map(line).collect();
        lines
            .sort_unstable_by(|one, other| (&one.tenant, &one.id).cmp(&(&other.tenant, &other.id)));
        lines
    }

    /// The tenants' ids by their numbers in the kernel, for the operator.
    #[must_use]
    pub fn tenant_names(&self) -> BTreeMap<u32, String> {
        let inner = self.lock();
        inner
            .tenants
            .iter()
            .map(|(id, tenant)| (tenant.number, id.to_string()))
            .collect()
    }

    /// Ends a session for good: its tickets open nothing any more. Whoever has the code can fetch
    /// another; a ban keeps them out.
    ///
    /// # Errors
    /// There is no such session, a socket can't be destroyed, or the disk failed: it has ended all the
    /// same.
    pub fn kick(&self, id: &str) -> Result<()> {
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let found = inner
            .sessions
            .iter()
            .find(|(_, session)| session.id == id)
            .map(|(run_id, session)| (run_id.clone(), session.control(), session.connected()));
        let Some((run_id, control, connected)) = found else {
            bail!("{}: no session {id:?}", Reason::NotFound);
        };
        let mut changes = Changes::default();
        let ports = inner.ports.of_session(&run_id);
        self.release(inner, &ports, "kicked", &mut changes, now_ms);
        let destroyed = if connected {
            self.kernel.destroy_control(&control).map(drop)
        } else {
            Ok(())
        };
        Desk::end_tickets(inner, &run_id, &mut changes);
        self.close_session(inner, &run_id, "kicked", None, &mut changes, now_ms);
        self.flush(inner, changes);
        let settled = self.settled(desk);
        destroyed?;
        kept(settled)
    }

    /// Ends whatever frpc's connection from `client` carries: it has failed too often.
    pub fn drop_connection(&self, client: std::net::SocketAddr) {
        let dropped = self.kernel.control_socket(client).and_then(|socket| {
            socket.map_or(Ok(false), |socket| self.kernel.destroy_control(&socket))
        });
        match dropped {
            Ok(true) => tracing::warn!(%client, "too many failed logins: connection destroyed"),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(error = error.whole(), %client, "a connection can't be destroyed")
            }
        }
    }
}

/// What the kernel has counted, read without the desk.
struct Counted {
    /// When the reading began, boot-time ns.
    at_ns: u64,
    tenants: HashMap<u32, TenantCounts>,
    /// Sorted by tenant.
    refused: Vec<Refused>,
}

impl Counted {
    fn read(kernel: &dyn Gate) -> Result<Counted> {
        Ok(Counted {
            at_ns: boot_ns(),
            tenants: kernel.all_counts()?,
            refused: kernel.refused()?,
        })
    }

    fn of(&self, tenant: &Tenant) -> TenantCounts {
        self.tenants
            .get(&tenant.number)
            .copied()
            .unwrap_or_default()
    }

    /// Tells what of it is a tenant's.
    fn tell(&self, tenant: &Tenant, usage: &mut TenantUsage) {
        let counts = self.of(tenant);
        usage.conns = counts.usage.conns;
        usage.flows = counts.flows;
        usage.admitted = counts.usage.admitted;
        usage.bytes_in = tenant.bytes_in;
        usage.bytes_out = tenant.bytes_out;
        let refused = &self.refused;
        let first = refused.partition_point(|counter| counter.tenant < tenant.number);
        let ours = refused[first..].iter();
        for counter in ours.take_while(|counter| counter.tenant == tenant.number) {
            *usage.refused.entry(counter.reason).or_default() += counter.count;
        }
    }
}

/// All tenants that there is something to tell of, the busiest first.
fn ranked(inner: &Inner, kernel: &Counted) -> Vec<String> {
    let mut lost = HashMap::<&str, usize>::new();
    for session in inner.sessions.lost() {
        *lost.entry(&session.tenant).or_default() += 1;
    }
    // Both are in the order of the tenants' ids.
    let mut owners = inner.sessions.owners().peekable();
    let rank = |(id, tenant): (&Arc<str>, &Tenant)| {
        while owners.next_if(|(owner, _)| ***owner < **id).is_some() {}
        let all = owners.next_if(|(owner, _)| ***owner == **id);
        let lost = lost.get(&**id).copied().unwrap_or(0);
        let connected = all.map_or(0, |(_, all)| all - lost);
        let counts = kernel.of(tenant);
        (
            (counts.usage.conns + counts.flows, connected),
            id.to_string(),
        )
    };
    let denied = inner.denied.keys();
    let only_denied = denied.filter(|id| !inner.tenants.contains_key(id.as_str()));
    let mut all: Vec<_> = inner.tenants.iter().map(rank).collect();
    all.extend(only_denied.map(|id| ((0, 0), id.clone())));
    all.sort_by(|(a, one), (b, other)| (b, one).cmp(&(a, other)));
    all.into_iter().map(|(_, id)| id).collect()
}
