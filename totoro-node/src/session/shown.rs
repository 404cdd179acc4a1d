//! What the kernel was shown of tenants and sessions, so that a change of policy writes no more than
//! what it changes. Forgotten wherever the kernel may have something else: then all is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use totoro_api::decide::Standing;
use totoro_api::ports::Pool;
use totoro_ebpf::abi;

use super::desk::{Desk, Inner};
use super::model::PUBLIC;
use super::policy::kernel_tenant;
use super::ports::{Lease, PortId, port_key};
use crate::kernel::KernelError;

/// Unix seconds; `None` = never. (On the kernel's clock it would differ with each correction.)
type End = Option<i64>;

#[derive(Debug, Default)]
pub(super) struct Shown {
    tenants: BTreeMap<u32, (abi::Tenant, End)>,
    /// When the leases of a session end.
    ends: BTreeMap<Arc<str>, End>,
    /// The pool that no lease is outside of.
    pub(super) lent: Option<Pool>,
    /// The pool, and what is guarded beside it.
    pub(super) guarded: Option<Pool>,
}

impl Shown {
    /// The kernel may have something else of this tenant.
    pub(super) fn forget_tenant(&mut self, number: u32) {
        self.tenants.remove(&number);
    }

    /// The clock by which ends are written has moved.
    pub(super) fn forget_ends(&mut self) {
        self.tenants.retain(|_, (_, end)| end.is_none());
        self.ends.retain(|_, end| end.is_none());
    }

    /// This session's next leases are new ones.
    pub(super) fn forget_session(&mut self, run_id: &str) {
        self.ends.remove(run_id);
    }
}

impl Desk {
    /// Has the kernel know a tenant's policy.
    pub(super) fn show_tenant(
        &self,
        inner: &mut Inner,
        id: &str,
        number: u32,
        standing: &Standing,
    ) -> Result<(), KernelError> {
        let mut policy = kernel_tenant(standing, id.starts_with(PUBLIC), 0);
        let shown = (policy, standing.expires_at);
        if inner.shown.tenants.get(&number) == Some(&shown) {
            return Ok(());
        }
        inner.shown.forget_tenant(number);
        policy.expires_ns = self.boot_ns(standing.expires_at);
        self.kernel.put_tenant(number, &policy)?;
        inner.shown.tenants.insert(number, shown);
        Ok(())
    }

    /// Has the kernel know when a session's leases end.
    pub(super) fn show_end(
        &self,
        inner: &mut Inner,
        run_id: &Arc<str>,
        number: u32,
        end: End,
    ) -> Result<(), KernelError> {
        if inner.shown.ends.get(run_id) == Some(&end) {
            return Ok(());
        }
        inner.shown.forget_session(run_id);
        let mut written = Ok(());
        for port in inner.ports.of_session(run_id) {
            if let Some(lease) = inner.ports.leases().get(&port) {
                // One that fails keeps no other from its end.
                written = written.and(self.put_lease(port, lease, number, end));
            }
        }
        if written.is_ok() {
            inner.shown.ends.insert(Arc::clone(run_id), end);
        }
        written
    }

    /// Has the kernel know a new lease.
    pub(super) fn show_lease(
        &self,
        inner: &mut Inner,
        port: PortId,
        lease: &Lease,
        number: u32,
        end: End,
    ) -> Result<(), KernelError> {
        let run_id = &lease.run_id;
        let known = inner.shown.ends.get(run_id) == Some(&end);
        let put = self.put_lease(port, lease, number, end);
        if put.is_ok() && known {
            return put;
        }
        inner.shown.forget_session(run_id);
        // All of the session's leases end then.
        if put.is_ok() && inner.ports.of_session(run_id).is_empty() {
            inner.shown.ends.insert(Arc::clone(run_id), end);
        }
        put
    }

    fn put_lease(
        &self,
        port: PortId,
        lease: &Lease,
        number: u32,
        end: End,
    ) -> Result<(), KernelError> {
        let kernel_lease = abi::Lease {
            tenant: number,
            lease: lease.number,
            expires_ns: self.boot_ns(end),
            ..abi::Lease::default()
        };
        self.kernel.put_lease(port_key(port), &kernel_lease)
    }

    /// An instant on the kernel's clock; 0 = never.
    fn boot_ns(&self, at: End) -> u64 {
        at.map_or(0, |at| self.clock.to_boot_ns(at.saturating_mul(1000)))
    }
}
