//! Ending what has no standing, and telling the kernel what holds for the rest.

use std::collections::BTreeMap;
use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::decide::Standing;
use totoro_api::ticket::Revision;
use totoro_ebpf::abi;

use super::desk::{Desk, Inner};
use super::failures::Failures;
use super::model::Session;
use super::policy::Policy;
use crate::store::Changes;

/// By the tenants' ids.
type ByTenant<T> = BTreeMap<Arc<str>, T>;

/// A session that has no standing any more.
pub(super) struct Doomed {
    run_id: Arc<str>,
    reason: Reason,
}

impl Desk {
    /// Ends every session (of these tenants only, where some are named) that has no standing under
    /// `policy`, and writes the others' policy to the kernel. A tenant's user connections end before
    /// its frpc's.
    pub(super) fn enforce(
        &self,
        inner: &mut Inner,
        policy: &Policy,
        tenants: Option<&[Arc<str>]>,
        changes: &mut Changes,
        now_ms: i64,
        failures: &mut Failures,
    ) {
        let (doomed, standing) = match tenants {
            Some(tenants) => {
                let sessions = &inner.sessions;
                let of = tenants.iter().flat_map(|tenant| sessions.of_owner(tenant));
                judge(inner, policy, now_ms, of)
            }
            None => judge(inner, policy, now_ms, inner.sessions.iter()),
        };
        for (tenant, sessions) in &doomed {
            if !standing.contains_key(tenant)
                && let (Some(tenant), Some(first)) = (inner.tenants.get(tenant), sessions.first())
            {
                inner.cuts.insert(tenant.number, first.reason);
            }
        }
        self.cut_tenants(inner, failures);
        // All users before anybody's frpc, with one look at them.
        let mut ports = BTreeMap::<_, Vec<_>>::new();
        for Doomed { run_id, reason } in doomed.values().flatten() {
            let its = inner.ports.of_session(run_id);
            ports.entry(word(*reason)).or_default().extend(its);
        }
        for (why, ports) in ports {
            self.release(inner, &ports, why, changes, now_ms);
        }
        for doomed in doomed.values().flatten() {
            self.cut(inner, doomed, changes, now_ms, failures);
        }
        for (tenant, holds) in &standing {
            let Some(number) = inner.tenants.get(tenant).map(|tenant| tenant.number) else {
                continue;
            };
            failures.note(self.show_tenant(inner, tenant, number, holds));
            let end = |(run_id, session): (&Arc<str>, &Session)| {
                let holds = policy.standing(&session.voucher, now_ms / 1000).ok();
                let end = holds.and_then(|holds| holds.session_end(session.begun_ms / 1000));
                (Arc::clone(run_id), end)
            };
            let ends: Vec<_> = inner.sessions.of_owner(tenant).map(end).collect();
            for (run_id, end) in ends {
                failures.note(self.show_end(inner, &run_id, number, end));
                inner.ends.set(run_id, end);
            }
        }
    }

    /// Cuts the tenants that are to be cut; whoever can't be is tried again. First all states, so
    /// that nothing of anybody's passes while sockets are destroyed.
    fn cut_tenants(&self, inner: &mut Inner, failures: &mut Failures) {
        let mut cut = Vec::new();
        for (number, reason) in &inner.cuts {
            let policy = abi::Tenant {
                state: abi::CUT,
                reason: reason.number(),
                ..abi::Tenant::default()
            };
            inner.shown.forget_tenant(*number);
            let written = failures.note(self.kernel.put_tenant(*number, &policy));
            cut.push((*number, written.is_some()));
        }
        for (number, written) in cut {
            let destroyed = failures.note(self.kernel.destroy_tenant(number));
            if written && destroyed.is_some() {
                inner.cuts.remove(&number);
            }
        }
    }

    /// Ends one session, whose ports (and with them its users) have ended: frpc's connection first. The session
    /// is over even where the connection can't be destroyed: what nobody's session is on is swept.
    fn cut(
        &self,
        inner: &mut Inner,
        doomed: &Doomed,
        changes: &mut Changes,
        now_ms: i64,
        failures: &mut Failures,
    ) {
        let Doomed { run_id, reason } = doomed;
        let Some(session) = inner.sessions.get(run_id) else {
            return;
        };
        let (control, connected) = (session.control(), session.connected());
        if connected {
            failures.note(self.kernel.destroy_control(&control));
        }
        if *reason == Reason::SessionExpired {
            Desk::end_tickets(inner, run_id, changes);
        }
        self.close_session(inner, run_id, word(*reason), Some(*reason), changes, now_ms);
    }
}

/// Which of these sessions have no standing, by tenant; and what holds for tenants that have one.
fn judge<'a>(
    inner: &Inner,
    policy: &Policy,
    now_ms: i64,
    sessions: impl Iterator<Item = (&'a Arc<str>, &'a Session)>,
) -> (ByTenant<Vec<Doomed>>, ByTenant<Standing>) {
    let now = now_ms / 1000;
    let mut doomed = ByTenant::<Vec<Doomed>>::new();
    let mut standing = BTreeMap::<&Arc<str>, (Revision, Standing)>::new();
    for (run_id, session) in sessions {
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
                let run_id = Arc::clone(run_id);
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
                    standing.insert(&session.tenant, (revision, holds));
                }
            }
        }
    }
    let standing = standing
        .into_iter()
        .map(|(tenant, (_, holds))| (tenant.clone(), holds))
        .collect();
    (doomed, standing)
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
