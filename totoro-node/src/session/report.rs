//! What the desk tells of itself: to the control plane, and to the operator on the local socket.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use totoro_api::Reason;
use totoro_api::ports::Protocol;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::node::{LeaseUsage, SessionUsage, TenantUsage};

use super::bans::kept;
use super::canary::CANARY;
use super::desk::{Desk, Inner};
use super::model::Tenant;
use super::ports::port_key;
use crate::kernel::Refused;
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
    /// Per tenant.
    pub tenants: Vec<TenantUsage>,
}

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
    /// Everything that a heartbeat tells of sessions, leases and tenants.
    ///
    /// # Errors
    /// The kernel's maps can't be read.
    pub fn report(&self) -> Result<Report> {
        let refused = self.kernel.refused()?;
        let inner = self.lock();
        let mut report = self.sums(&inner, &refused);
        let mut known: BTreeMap<&String, Option<&Tenant>> =
            inner.denied.keys().map(|id| (id, None)).collect();
        known.extend(inner.tenants.iter().map(|(id, tenant)| (id, Some(tenant))));
        for (id, tenant) in known {
            let mut usage = TenantUsage {
                tenant: id.clone(),
                refused: inner.denied.get(id).cloned().unwrap_or_default(),
                ..TenantUsage::default()
            };
            if let Some(tenant) = tenant {
                self.kernels_part(tenant, &refused, &mut usage)?;
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
            for (port, lease) in inner.ports.of_tenant(id) {
                if let Some(tenant) = tenant {
                    let counts = self.kernel.lease_counts(tenant.number, port_key(port))?;
                    usage.bytes_in += counts.bytes_in;
                    usage.bytes_out += counts.bytes_out;
                }
                usage.leases.push(LeaseUsage {
                    proxy: lease.name.clone(),
                    protocol: port.0.to_string(),
                    address: self.rules.host.clone(),
                    port: port.1,
                    since: rfc3339(lease.since_ms / 1000),
                });
            }
            report.conns += usage.conns;
            report.flows += usage.flows;
            report.admitted += usage.admitted;
            report.tenants.push(usage);
        }
        Ok(report)
    }

    /// The same without each tenant's part, and without looking at each lease.
    ///
    /// # Errors
    /// The kernel's maps can't be read.
    pub fn totals(&self) -> Result<Report> {
        let refused = self.kernel.refused()?;
        let inner = self.lock();
        let mut report = self.sums(&inner, &refused);
        for tenant in inner.tenants.values() {
            let counts = self.kernel.counts(tenant.number)?;
            report.conns += counts.usage.conns;
            report.flows += counts.flows;
            report.admitted += counts.usage.admitted;
        }
        Ok(report)
    }

    /// What needs no look at a tenant.
    fn sums(&self, inner: &Inner, refused: &[Refused]) -> Report {
        let now_ms = self.clock.now_ms();
        let connected = inner.sessions.values().filter(|one| one.connected());
        let mut report = Report {
            sessions: connected.count() as u32,
            leases: inner.ports.leases().len() as u32,
            ..Report::default()
        };
        for protocol in Protocol::ALL {
            let free = inner.ports.free(protocol, &inner.policy.node.pool, now_ms);
            report.free_ports.insert(protocol.to_string(), free as u32);
        }
        let kernel = refused
            .iter()
            .filter(|counter| counter.tenant != CANARY)
            .map(|counter| (counter.reason, counter.count));
        let plugin = inner
            .denied
            .values()
            .flatten()
            .map(|(reason, count)| (*reason, *count));
        for (reason, count) in kernel.chain(plugin) {
            *report.refused.entry(reason.code().to_owned()).or_default() += count;
        }
        report
    }

    fn kernels_part(
        &self,
        tenant: &Tenant,
        refused: &[Refused],
        usage: &mut TenantUsage,
    ) -> Result<()> {
        let counts = self.kernel.counts(tenant.number)?;
        usage.conns = counts.usage.conns;
        usage.flows = counts.flows;
        usage.admitted = counts.usage.admitted;
        usage.bytes_in = tenant.bytes_in;
        usage.bytes_out = tenant.bytes_out;
        // Sorted by tenant.
        let first = refused.partition_point(|counter| counter.tenant < tenant.number);
        let ours = refused[first..].iter();
        for counter in ours.take_while(|counter| counter.tenant == tenant.number) {
            *usage.refused.entry(counter.reason).or_default() += counter.count;
        }
        Ok(())
    }

    /// The sessions, for the operator.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionLine> {
        let inner = self.lock();
        let line = |(run_id, session): (&String, &super::model::Session)| SessionLine {
            id: session.id.clone(),
            tenant: session.tenant.clone(),
            client: session.client.to_string(),
            since: rfc3339(session.opened_ms / 1000),
            connected: session.connected(),
            frpc_version: session.frpc_version.clone(),
            proxies: inner
                .ports
                .of_session(run_id)
                .into_iter()
                .filter_map(|port| Some((port, inner.ports.leases().get(&port)?)))
                .map(|((protocol, port), lease)| format!("{} {protocol}/{port}", lease.name))
                .collect(),
        };
        inner.sessions.iter().map(line).collect()
    }

    /// The tenants' ids by their numbers in the kernel, for the operator.
    #[must_use]
    pub fn tenant_names(&self) -> BTreeMap<u32, String> {
        let inner = self.lock();
        inner
            .tenants
            .iter()
            .map(|(id, tenant)| (tenant.number, id.clone()))
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
        for port in inner.ports.of_session(&run_id) {
            self.release(inner, port, "kicked", &mut changes, now_ms);
        }
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
