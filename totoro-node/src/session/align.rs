//! Bringing the kernel in line with what is decided: at start, when policy changes, and again after
//! a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use totoro_api::ports::{Pool, PortRange, Protocol};
use totoro_api::ticket::Revision;

use super::desk::{Desk, Inner};
use super::failures::Failures;
use super::gate::Gate;
use super::model::ALL_PUBLIC;
use super::policy::{Policy, kernel_public};
use super::ports::{PortId, port_of, record_key};
use super::shown::Shown;
use crate::kernel::ControlSocket;
use crate::store::Changes;

/// Whom a change of the policy concerns, but for those whose invites it names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Concerns {
    /// Everybody: the node's own part, the bans or the time are others.
    All,
    /// Those who brought a ticket that was newer than this revision: it spoke for itself until now, and
    /// the policy may speak now.
    Since(Revision),
}

impl Desk {
    /// Has everything that is decided hold in the kernel. Each part stands on its own: what fails
    /// is noted, and tried again every second until nothing does.
    pub(super) fn align(&self, inner: &mut Inner, changes: &mut Changes, now_ms: i64) {
        inner.shown = Shown::default();
        let mut failures = Failures::default();
        inner.untidy = None;
        self.hold(inner, changes, now_ms, &mut failures);
        self.close_strays(inner, &mut failures);
        inner.untidy = failures.first().or(inner.untidy.take());
    }

    /// Has a policy hold that has changed: writes what it changes, and what it changes of these
    /// tenants first.
    pub(super) fn adopt(
        &self,
        inner: &mut Inner,
        first: &[Arc<str>],
        concerns: Concerns,
        changes: &mut Changes,
        now_ms: i64,
    ) {
        let policy = Arc::clone(&inner.policy);
        let mut failures = Failures::default();
        self.enforce(inner, &policy, Some(first), changes, now_ms, &mut failures);
        match concerns {
            Concerns::All => self.hold(inner, changes, now_ms, &mut failures),
            Concerns::Since(before) => {
                let spoke = inner.sessions.newer(before);
                let tenants: BTreeSet<Arc<str>> =
                    spoke.map(|session| session.tenant.clone()).collect();
                let tenants: Vec<Arc<str>> = tenants.into_iter().collect();
                self.enforce(
                    inner,
                    &policy,
                    Some(&tenants),
                    changes,
                    now_ms,
                    &mut failures,
                );
            }
        }
        inner.untidy = failures.first().or(inner.untidy.take());
    }

    fn hold(&self, inner: &mut Inner, changes: &mut Changes, now_ms: i64, failures: &mut Failures) {
        let policy = Arc::clone(&inner.policy);
        failures.note(
            self.kernel
                .put_tenant(ALL_PUBLIC, &kernel_public(&policy.node)),
        );
        self.enforce(inner, &policy, None, changes, now_ms, failures);
        failures.note(self.kernel.set_hold(inner.hold()));
        self.write_bans(inner, &policy, now_ms, failures);
        self.lend(inner, &policy, changes, now_ms, failures);
    }

    /// Lends the pool. Outside it nothing guards a port, so no lease may stay there; frps goes on
    /// listening until frpc's connection ends, and the port is guarded until then.
    fn lend(
        &self,
        inner: &mut Inner,
        policy: &Policy,
        changes: &mut Changes,
        now_ms: i64,
        failures: &mut Failures,
    ) {
        let pool = &policy.node.pool;
        if inner.shown.lent.as_ref() != Some(pool) {
            let outside: Vec<_> = inner
                .ports
                .leases()
                .iter()
                .filter(|((protocol, port), _)| !pool.of(*protocol).contains(*port))
                .map(|(port, lease)| (*port, lease.run_id.clone()))
                .collect();
            let ports: Vec<_> = outside.iter().map(|(port, _)| *port).collect();
            self.release(inner, &ports, "pool_changed", changes, now_ms);
            for (port, run_id) in outside {
                if let Some(session) = inner.sessions.get(&run_id) {
                    let leaving = (Some(session.control()), now_ms);
                    inner.leaving.insert(port, leaving);
                }
            }
            inner.shown.lent = Some(pool.clone());
        }
        // Each connection once, whatever it had.
        let mut ended = BTreeMap::new();
        inner.leaving.retain(|(protocol, port), (control, _)| {
            let mut has_ended = |control: &ControlSocket| {
                *ended.entry(control.cookie).or_insert_with(|| {
                    failures
                        .note(self.kernel.destroy_control(control))
                        .is_some()
                })
            };
            match control {
                // Only frps knows, and may not have been asked yet.
                None => true,
                Some(control) => !pool.of(*protocol).contains(*port) && !has_ended(control),
            }
        });
        self.guard(inner, failures);
    }

    /// Has the kernel guard the pool and, outside it, what frps may listen on without a lease: nobody gets in
    /// there.
    pub(super) fn guard(&self, inner: &mut Inner, failures: &mut Failures) {
        let lent = &inner.policy.node.pool;
        let strays = inner.strays.keys().map(|(_, port)| port);
        let beside = inner.leaving.keys().chain(strays).copied().collect();
        let guarded = with(lent, &beside);
        if inner.shown.guarded.as_ref() == Some(&guarded) {
            return;
        }
        let written = failures.note(self.kernel.set_pool(&guarded));
        inner.shown.guarded = written.map(|()| guarded);
    }

    /// Closes what the kernel has and nobody knows of.
    fn close_strays(&self, inner: &mut Inner, failures: &mut Failures) {
        for (key, lease) in failures.note(self.kernel.leases()).unwrap_or_default() {
            let known = port_of(key).and_then(|port| inner.ports.leases().get(&port));
            if known.is_none_or(|known| known.number != lease.lease)
                && failures.note(self.kernel.remove_lease(key)).is_some()
            {
                failures.note(self.kernel.forget_lease(lease.tenant, key));
            }
        }
        let known: BTreeSet<u32> = inner.tenants.values().map(|known| known.number).collect();
        let there = failures.note(self.kernel.tenants()).unwrap_or_default();
        let strays = there.into_iter().map(|(number, _)| number);
        let strays: Vec<u32> = strays
            .filter(|number| *number != ALL_PUBLIC && !known.contains(number))
            .collect();
        failures.note(self.kernel.remove_tenants(&strays));
    }
}

/// What an earlier daemon guarded beside the pool, and what is guarded until frps says that nobody listens there. Not
/// where frps or the daemon itself is asked: there all must get in.
pub(super) fn inherited(kernel: &dyn Gate, pool: &Pool, own_ports: &[u16]) -> Vec<PortId> {
    let guarded = kernel.pool().unwrap_or_else(|error| {
        tracing::warn!(error = error.whole(), "what was guarded can't be read");
        Pool::default()
    });
    let mut beside = Vec::new();
    for protocol in Protocol::ALL {
        let is_own = |port: u16| protocol == Protocol::Tcp && own_ports.contains(&port);
        let ports = guarded.of(protocol).iter();
        let others = ports.filter(|port| !pool.of(protocol).contains(*port) && !is_own(*port));
        beside.extend(others.map(|port| (protocol, port)));
    }
    if !beside.is_empty() {
        let ports: Vec<String> = beside.iter().copied().map(record_key).collect();
        tracing::info!(
            ports = ports.join(" "),
            "guarded outside the pool, as before, until frps says that nobody listens there"
        );
    }
    beside
}

/// A pool with these ports too.
fn with(pool: &Pool, ports: &BTreeSet<PortId>) -> Pool {
    let set = |of| {
        let more = ports.iter().filter(|(protocol, _)| *protocol == of);
        let more = more.filter_map(|(_, port)| PortRange::new(*port, *port));
        pool.of(of).ranges().iter().copied().chain(more).collect()
    };
    Pool {
        tcp: set(Protocol::Tcp),
        udp: set(Protocol::Udp),
    }
}
