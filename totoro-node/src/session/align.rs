//! Bringing the kernel in line with what is decided: at start, when policy changes, and again after
//! a failure.

use std::sync::Arc;

use super::desk::{Desk, Inner};
use super::failures::Failures;
use super::model::ALL_PUBLIC;
use super::policy::{Policy, kernel_public};
use super::ports::{port_key, record_key};
use crate::store::Changes;

impl Desk {
    /// Has everything that is decided hold in the kernel. Each part stands on its own: what fails
    /// is noted, and tried again every second until nothing does.
    pub(super) fn align(&self, inner: &mut Inner, changes: &mut Changes, now_ms: i64) {
        let policy = Arc::clone(&inner.policy);
        let mut failures = Failures::default();
        inner.untidy = None;
        failures.note(
            self.kernel
                .put_tenant(ALL_PUBLIC, &kernel_public(&policy.node)),
        );
        self.enforce(inner, &policy, changes, now_ms, &mut failures);
        failures.note(self.kernel.set_hold(inner.hold()));
        self.write_bans(inner, &policy, now_ms, &mut failures);
        self.lend(inner, &policy, changes, now_ms, &mut failures);
        self.close_strays(inner, &mut failures);
        inner.untidy = failures.first().or(inner.untidy.take());
    }

    /// Lends the pool. Outside it nothing guards a port, so no lease may stay there; frps goes on
    /// listening until frpc's connection ends.
    fn lend(
        &self,
        inner: &mut Inner,
        policy: &Policy,
        changes: &mut Changes,
        now_ms: i64,
        failures: &mut Failures,
    ) {
        let pool = &policy.node.pool;
        let outside: Vec<_> = inner
            .ports
            .leases()
            .iter()
            .filter(|((protocol, port), _)| !pool.of(*protocol).contains(*port))
            .map(|(port, lease)| (*port, lease.run_id.clone()))
            .collect();
        for (port, run_id) in outside {
            self.release(inner, port, "pool_changed", changes, now_ms);
            if let Some(session) = inner.sessions.get(&run_id) {
                failures.note(self.kernel.destroy_control(&session.control()));
            }
        }
        failures.note(self.kernel.set_pool(pool));
    }

    /// Closes what the kernel has and nobody knows of.
    fn close_strays(&self, inner: &mut Inner, failures: &mut Failures) {
        for (key, lease) in failures.note(self.kernel.leases()).unwrap_or_default() {
            let known = inner
                .ports
                .leases()
                .iter()
                .find(|(port, known)| port_key(**port) == key && known.number == lease.lease);
            if known.is_none() && failures.note(self.kernel.remove_lease(key)).is_some() {
                failures.note(self.kernel.forget_lease(lease.tenant, key));
            }
        }
        let known = |number: u32| {
            number == ALL_PUBLIC || inner.tenants.values().any(|known| known.number == number)
        };
        for (number, _) in failures.note(self.kernel.tenants()).unwrap_or_default() {
            if !known(number) {
                failures.note(self.kernel.remove_tenant(number));
            }
        }
    }

    /// What was counted on leases that ended is durable now, and no more needed in the kernel.
    pub(super) fn forget_spent(&self, inner: &mut Inner) {
        for (port, tenant) in std::mem::take(&mut inner.spent) {
            if let Err(error) = self.kernel.forget_lease(tenant, port_key(port)) {
                // Counts that nobody reads; the port's next lease begins by clearing them.
                tracing::warn!(error = error.whole(), port = %record_key(port), "old counts stay");
            }
        }
    }
}
