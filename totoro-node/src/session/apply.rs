//! Policy taking effect: what was pushed, and what time brings.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use ipnet::IpNet;
use totoro_api::Reason;
use totoro_api::decide::Standing;
use totoro_api::ticket::Revision;
use totoro_api::wire::push::{Applied, DesiredState};
use totoro_ebpf::abi;

use super::desk::{Desk, Inner};
use super::model::{ALL_PUBLIC, PUBLIC};
use super::policy::{Policy, kernel_public};
use crate::store::Changes;

/// A session that has no standing any more.
struct Doomed {
    run_id: String,
    reason: Reason,
}

impl Desk {
    /// Where the applied policy stands.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.lock().policy.revision
    }

    /// The node's part of the applied policy.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.lock().policy)
    }

    /// Applies what was pushed: cuts first, the rest after, durable before it returns. On failure
    /// the last good policy holds.
    ///
    /// # Errors
    /// What was pushed cannot hold here, or the kernel or the disk failed.
    pub fn apply(&self, pushed: DesiredState) -> Result<Applied> {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let before = Arc::clone(&inner.policy);
        let next = before
            .merged(pushed, self.rules.bind_port, now_ms / 1000)
            .map_err(|why| anyhow!(why))?;
        let mut changes = Changes::default();
        let next = Arc::new(next);
        let mut enforced = self.enforce(inner, &next, &mut changes, now_ms);
        if enforced.is_ok() {
            enforced = self.node_wide(inner, &before, &next, &mut changes, now_ms);
        }
        if let Err(error) = enforced {
            // What was cut stays cut, and is told; the rest is as it was, and is tried again.
            self.flush(inner, changes);
            return Err(error);
        }
        Desk::put_policy(&mut changes, &next);
        inner.policy = Arc::clone(&next);
        self.flush(inner, changes);
        if !inner.pending.is_empty() {
            return Err(anyhow!("the policy holds, but can't be made durable"));
        }
        Ok(Applied {
            revision: next.revision,
            keys: next.keys.iter().map(|key| key.kid.clone()).collect(),
            error: None,
        })
    }

    /// What holds for the whole node: the pool, bans, the hold, anonymous tenants together.
    fn node_wide(
        &self,
        inner: &mut Inner,
        before: &Policy,
        next: &Policy,
        changes: &mut Changes,
        now_ms: i64,
    ) -> Result<()> {
        self.kernel
            .put_tenant(ALL_PUBLIC, &kernel_public(&next.node))?;
        self.write_bans(inner, next, now_ms)?;
        let hold = next.node.disabled.then_some(Reason::NodeDisabled);
        self.kernel.set_hold(hold)?;
        if before.node.pool != next.node.pool {
            // Outside the pool nothing guards a port, so no lease may stay there. frps goes on
            // listening until frpc's connection ends.
            let outside: Vec<_> = inner
                .ports
                .leases()
                .iter()
                .filter(|((protocol, port), _)| !next.node.pool.of(*protocol).contains(*port))
                .map(|(port, lease)| (*port, lease.run_id.clone()))
                .collect();
            for (port, run_id) in outside {
                self.release(inner, port, "pool_changed", changes, now_ms);
                if let Some(session) = inner.sessions.get(&run_id) {
                    self.kernel.destroy_control(&session.control())?;
                }
            }
            self.kernel.set_pool(&next.node.pool)?;
        }
        Ok(())
    }

    /// Writes the bans that hold, pushed and local.
    pub(super) fn write_bans(&self, inner: &Inner, policy: &Policy, now_ms: i64) -> Result<()> {
        let mut wanted = BTreeMap::<IpNet, Option<i64>>::new();
        let pushed = policy
            .bans
            .iter()
            .map(|ban| (ban.prefix.trunc(), ban.until));
        let local = inner
            .local_bans
            .iter()
            .map(|(prefix, ban)| (prefix.trunc(), ban.until));
        for (prefix, until) in pushed.chain(local) {
            if until.is_some_and(|until| until <= now_ms / 1000) {
                continue;
            }
            // Of two bans of one prefix the longer holds.
            let longer = match wanted.get(&prefix) {
                Some(Some(other)) => until.map(|until| until.max(*other)),
                Some(None) => None,
                None => until,
            };
            wanted.insert(prefix, longer);
        }
        let wanted = wanted
            .into_iter()
            .map(|(prefix, until)| {
                let until = until.map_or(0, |at| self.clock.to_boot_ns(at.saturating_mul(1000)));
                (prefix, until)
            })
            .collect();
        Ok(self.kernel.set_bans(&wanted)?)
    }

    /// Ends every session that has no standing under `policy`, and writes the others' policy to
    /// the kernel. A tenant's user connections end before its frpc's.
    pub(super) fn enforce(
        &self,
        inner: &mut Inner,
        policy: &Policy,
        changes: &mut Changes,
        now_ms: i64,
    ) -> Result<()> {
        let (doomed, standing) = judge(inner, policy, now_ms);
        // First all states, so that nothing of anybody's passes while sockets are destroyed.
        for (tenant, sessions) in &doomed {
            if !standing.contains_key(tenant) {
                let number = inner.tenants.get(tenant).map_or(0, |tenant| tenant.number);
                let cut = abi::Tenant {
                    state: abi::CUT,
                    reason: sessions.first().map_or(0, |doomed| doomed.reason.number()),
                    // Its flows are counted there too.
                    parent: if tenant.starts_with(PUBLIC) {
                        ALL_PUBLIC
                    } else {
                        0
                    },
                    ..abi::Tenant::default()
                };
                self.kernel.put_tenant(number, &cut)?;
            }
        }
        for (tenant, sessions) in &doomed {
            if !standing.contains_key(tenant) {
                let number = inner.tenants.get(tenant).map_or(0, |tenant| tenant.number);
                self.kernel.destroy_tenant(number)?;
            }
            for doomed in sessions {
                self.cut(inner, doomed, changes, now_ms)?;
            }
        }
        for (tenant, holds) in &standing {
            let Some(number) = inner.tenants.get(tenant).map(|tenant| tenant.number) else {
                continue;
            };
            self.put_tenant(tenant, number, holds)?;
            for (port, lease) in inner.ports.leases() {
                if lease.tenant == *tenant
                    && let Some(session) = inner.sessions.get(&lease.run_id)
                {
                    let end = policy
                        .standing(&session.voucher, now_ms / 1000)
                        .ok()
                        .and_then(|holds| holds.session_end(session.begun_ms / 1000));
                    self.put_lease(*port, lease, number, end)?;
                }
            }
        }
        Ok(())
    }

    /// Ends one session: its ports (and with them its users), then frpc's connection.
    fn cut(
        &self,
        inner: &mut Inner,
        doomed: &Doomed,
        changes: &mut Changes,
        now_ms: i64,
    ) -> Result<()> {
        let Doomed { run_id, reason } = doomed;
        let Some(session) = inner.sessions.get(run_id) else {
            return Ok(());
        };
        let (control, connected) = (session.control(), session.connected());
        for port in inner.ports.of_session(run_id) {
            self.release(inner, port, word(*reason), changes, now_ms);
        }
        if connected {
            self.kernel.destroy_control(&control)?;
        }
        if *reason == Reason::SessionExpired {
            Desk::end_tickets(inner, run_id, changes);
        }
        self.close_session(inner, run_id, word(*reason), Some(*reason), changes, now_ms);
        Ok(())
    }

    /// The control plane's clock moved against ours: instants on the boot-time clock are written
    /// anew.
    ///
    /// # Errors
    /// The kernel's maps can't be written.
    pub fn reclock(&self) -> Result<()> {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut changes = Changes::default();
        let policy = Arc::clone(&inner.policy);
        let result = self
            .enforce(inner, &policy, &mut changes, now_ms)
            .and_then(|()| self.write_bans(inner, &policy, now_ms));
        self.flush(inner, changes);
        result
    }

    /// Ends what time has ended; called often, so it writes nothing to the kernel when nothing is.
    pub(super) fn expire(
        &self,
        inner: &mut Inner,
        changes: &mut Changes,
        now_ms: i64,
    ) -> Result<()> {
        let policy = Arc::clone(&inner.policy);
        let (doomed, _) = judge(inner, &policy, now_ms);
        if doomed.is_empty() {
            return Ok(());
        }
        self.enforce(inner, &policy, changes, now_ms)
    }
}

/// Which sessions have no standing, by tenant; and what holds for tenants that have one.
fn judge(
    inner: &Inner,
    policy: &Policy,
    now_ms: i64,
) -> (BTreeMap<String, Vec<Doomed>>, BTreeMap<String, Standing>) {
    let now = now_ms / 1000;
    let mut doomed = BTreeMap::<String, Vec<Doomed>>::new();
    let mut standing = BTreeMap::<String, (Revision, Standing)>::new();
    for (run_id, session) in &inner.sessions {
        let ip = session.client.ip();
        let banned = policy.banned(ip, now) || inner.banned_here(ip, now);
        let verdict = match policy.standing(&session.voucher, now) {
            _ if banned => Err(Reason::ClientBanned),
            Err(refusal) => Err(refusal.reason),
            Ok(holds)
                if holds
                    .session_end(session.begun_ms / 1000)
                    .is_some_and(|end| end <= now) =>
            {
                Err(Reason::SessionExpired)
            }
            Ok(holds) => Ok(holds),
        };
        match verdict {
            Err(reason) => {
                let run_id = run_id.clone();
                doomed
                    .entry(session.tenant.clone())
                    .or_default()
                    .push(Doomed { run_id, reason });
            }
            // Of several tickets of one tenant the newest speaks for it.
            Ok(holds) => {
                let revision = session.voucher.revision;
                let newest = standing
                    .get(&session.tenant)
                    .is_none_or(|(other, _)| *other <= revision);
                if newest {
                    standing.insert(session.tenant.clone(), (revision, holds));
                }
            }
        }
    }
    let standing = standing
        .into_iter()
        .map(|(tenant, (_, holds))| (tenant, holds))
        .collect();
    (doomed, standing)
}

impl Inner {
    /// Whether the operator banned an address on this node.
    pub(super) fn banned_here(&self, ip: std::net::IpAddr, now: i64) -> bool {
        let ip = ip.to_canonical();
        self.local_bans
            .iter()
            .any(|(prefix, ban)| prefix.contains(&ip) && ban.until.is_none_or(|until| until > now))
    }
}

/// Why a session ended, in the audit's word.
const fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::InviteRevoked => "revoked",
        Reason::InviteExpired => "expired",
        Reason::InviteUnknown => "removed",
        Reason::TicketExpired => "rotated",
        Reason::NodeDisabled => "disabled",
        Reason::ClientBanned => "banned",
        other => other.code(),
    }
}
