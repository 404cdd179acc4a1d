//! What happens without being asked: time.

use std::collections::{BTreeMap, BTreeSet};

use super::desk::{Desk, Inner};
use super::failures::Failures;
use crate::kernel::boot_ns;
use crate::store::{Changes, HELD, TENANTS, TICKETS};

/// How long a tenant without sessions is kept in the kernel, ms.
const IDLE_TENANT_MS: i64 = 600_000;
/// How long a connection to frps may be without a session, ns. frps itself gives one that does not
/// log in 10 s.
const NO_SESSION_NS: u64 = 30_000_000_000;

impl Desk {
    /// Four times a second: what time has ended, and what was refused since.
    pub fn tick(&self) {
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        let mut failures = Failures::default();
        self.expire(inner, &mut changes, now_ms, &mut failures);
        if failures.any() {
            inner.untidy = failures.first();
        }
        let over: Vec<String> = inner
            .sessions
            .iter()
            .filter(|(_, session)| {
                session
                    .lost_ms
                    .is_some_and(|lost| lost + self.rules.grace_ms <= now_ms)
            })
            .map(|(run_id, _)| run_id.clone())
            .collect();
        for run_id in over {
            self.close_session(
                inner,
                &run_id,
                "connection_lost",
                None,
                &mut changes,
                now_ms,
            );
        }
        self.tell_refusals(inner, &mut changes, now_ms);
        self.flush(inner, changes);
        let _ = self.settled(desk);
    }

    /// Every second: the kernel's counters, its sweep, and what it refused to do before.
    pub fn second(&self) {
        match self.kernel.sweep() {
            Ok(swept) => self.mended.swept(&swept),
            Err(error) => tracing::error!(error = error.whole(), "the sweep failed"),
        }
        let refused = self.kernel.refused();
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        match refused {
            Ok(refused) => self.gather_refused(inner, &refused, now_ms),
            Err(error) => tracing::error!(error = error.whole(), "refusals can't be read"),
        }
        self.tidy(inner, &mut changes, now_ms);
        self.sum_up(inner, &mut changes, now_ms);
        self.flush(inner, changes);
        let _ = self.settled(desk);
    }

    /// Tries again what the kernel refused, after 1, 2, 4, … and then every 32 seconds.
    fn tidy(&self, inner: &mut Inner, changes: &mut Changes, now_ms: i64) {
        if inner.untidy.is_none() {
            inner.untidy_s = 0;
            return;
        }
        inner.untidy_s = inner.untidy_s.saturating_add(1);
        if inner.untidy_s.is_power_of_two() || inner.untidy_s.is_multiple_of(32) {
            self.align(inner, changes, now_ms);
        }
    }

    /// Every few seconds: connections whose end was not heard of, and those that no session is on.
    pub fn look_for_lost(&self) {
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        let lost = self.find_lost(inner, None, &mut changes, now_ms);
        self.mended.add("lost_session", lost);
        self.flush(inner, changes);
        self.drop_idle(inner);
        let _ = self.settled(desk);
    }

    /// Ends connections to frps that carry no session: a session that ended by mistake comes back,
    /// and no client keeps a second connection for flows that outlive a revocation.
    fn drop_idle(&self, inner: &Inner) {
        let controls = match self.kernel.controls() {
            Ok(controls) => controls,
            Err(error) => {
                tracing::error!(error = error.whole(), "connections to frps can't be listed");
                return;
            }
        };
        let now_ns = boot_ns();
        let used: BTreeSet<u64> = inner
            .sessions
            .values()
            .filter(|session| session.connected())
            .map(|session| session.cookie)
            .collect();
        // Without tcpMux each user connection has one of frpc's, which names no session: it is let
        // be while a session comes from its address. What flows over it ends with the user's own.
        let homes: BTreeSet<_> = inner
            .sessions
            .values()
            .filter(|session| session.connected() && !self.rules.tcp_mux)
            .map(|session| session.client.ip())
            .collect();
        for control in controls {
            let client = control.socket.client;
            if used.contains(&control.socket.cookie)
                || homes.contains(&client.ip())
                || control.opened_ns + NO_SESSION_NS > now_ns
            {
                continue;
            }
            match self.kernel.destroy_control(&control.socket) {
                Ok(_) => {
                    self.mended.add("idle_connection", 1);
                    tracing::info!(%client, "a connection to frps without a session was ended")
                }
                Err(error) => {
                    tracing::error!(error = error.whole(), %client, "a connection can't be destroyed")
                }
            }
        }
    }

    /// Every minute: forgets what can't matter any more.
    pub fn forget(&self) {
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        self.forget_tickets(inner, &mut changes, now_ms / 1000);
        let busy: BTreeSet<&String> = inner
            .sessions
            .values()
            .map(|session| &session.tenant)
            .chain(inner.ports.leases().values().map(|lease| &lease.tenant))
            .collect();
        let idle: Vec<(String, u32)> = inner
            .tenants
            .iter()
            .filter(|(id, tenant)| {
                let known = inner.policy.invites.contains_key(*id);
                !known && !busy.contains(id) && tenant.seen_ms + IDLE_TENANT_MS < now_ms
            })
            .map(|(id, tenant)| (id.clone(), tenant.number))
            .collect();
        for (id, number) in idle {
            // A connection that still lives keeps its tenant.
            if self
                .kernel
                .counts(number)
                .is_ok_and(|counts| counts.usage.conns > 0)
            {
                continue;
            }
            if let Err(error) = self.kernel.remove_tenant(number) {
                tracing::error!(
                    error = error.whole(),
                    tenant = id,
                    "a tenant can't be removed from the kernel"
                );
                continue;
            }
            inner.cuts.remove(&number);
            inner.shown.forget_tenant(number);
            inner.tenants.remove(&id);
            inner.denied.remove(&id);
            changes.remove(TENANTS, id);
        }
        let forgotten: Vec<_> = inner
            .ports
            .waiting()
            .iter()
            .filter(|(_, waiting)| {
                waiting.cooling_ms < now_ms && !inner.tenants.contains_key(&waiting.tenant)
            })
            .map(|(port, _)| *port)
            .collect();
        for port in forgotten {
            inner.ports.forget(port);
            changes.remove(HELD, super::ports::record_key(port));
        }
        inner.local_bans.retain(|prefix, ban| {
            let keep = ban.until.is_none_or(|until| until > now_ms / 1000);
            if !keep {
                changes.remove(crate::store::BANS, prefix.to_string());
            }
            keep
        });
        self.flush(inner, changes);
        let _ = self.settled(desk);
    }

    /// Past its time a ticket opens nothing; the newest of a session that is known may still resume
    /// it.
    fn forget_tickets(&self, inner: &mut Inner, changes: &mut Changes, now: i64) {
        let mut newest = BTreeMap::<String, (i64, String)>::new();
        for (hash, ticket) in inner.tickets.iter() {
            let candidate = (ticket.exp, hash.clone());
            let best = newest.entry(ticket.run_id.clone()).or_default();
            if *best < candidate {
                *best = candidate;
            }
        }
        let over = inner.tickets.iter().filter(|(hash, ticket)| {
            let resumes = inner.sessions.contains_key(&ticket.run_id)
                && newest
                    .get(&ticket.run_id)
                    .is_some_and(|(_, of)| of == *hash);
            !resumes && ticket.past(now)
        });
        let over: Vec<String> = over.map(|(hash, _)| hash.clone()).collect();
        for hash in over {
            inner.tickets.remove(&hash);
            changes.remove(TICKETS, hash);
        }
    }

    /// Before the daemon ends, and when nothing else of it runs any more: what was gathered is
    /// told now.
    pub fn finish(&self) {
        self.second();
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        self.sum_up_now(inner, &mut changes, now_ms);
        self.tell_refusals(inner, &mut changes, now_ms);
        self.flush(inner, changes);
        let _ = self.settled(desk);
    }
}
