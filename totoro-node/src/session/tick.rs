//! What happens without being asked: time.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use totoro_api::ports::Protocol;

use super::desk::{Desk, Inner};
use super::ending::{cant_list, sessionless, without};
use super::failures::Failures;
use super::model::Tenant;
use crate::kernel::{Control, boot_ns};
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
        let over = inner.sessions.lost_by(now_ms - self.rules.grace_ms);
        let over: Vec<String> = over.map(str::to_owned).collect();
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
            Ok(swept) => {
                self.mended.swept(&swept);
                if swept.untagged {
                    self.rebind();
                }
            }
            Err(error) => tracing::error!(error = error.whole(), "the sweep failed"),
        }
        let refused = self.unrefused.is_due().then(|| self.kernel.refused());
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        match refused {
            None => {}
            Some(Ok(refused)) => self.gather_refused(inner, refused, now_ms),
            Some(Err(error)) => tracing::error!(error = error.whole(), "refusals can't be read"),
        }
        // Who has asked nothing for so long may ask as if for the first time.
        let now_ns = boot_ns();
        inner.asks.retain(|_, asked| *asked > now_ns);
        self.tidy(inner, &mut changes, now_ms);
        let sums_up = Desk::sums_up(inner, now_ms);
        self.flush(inner, changes);
        let _ = self.settled(desk);
        self.forget_spent();
        if sums_up {
            self.sum_up();
        }
    }

    /// Ends the connections of all who have UDP ports, so that frps binds these anew: what it bound while nothing
    /// tagged it would pass unmetered for as long as the proxy lives.
    fn rebind(&self) {
        let desk = self.lock();
        let leases = desk.ports.leases().iter();
        let udp = leases.filter(|((protocol, _), _)| *protocol == Protocol::Udp);
        let sessions: BTreeSet<_> = udp.map(|(_, lease)| &*lease.run_id).collect();
        if !sessions.is_empty() {
            tracing::error!(
                sessions = sessions.len(),
                "UDP was not metered; frps is to bind it anew"
            );
        }
        for run_id in sessions {
            self.disconnect(&desk, run_id);
        }
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
        // Before the lock. A session that came meanwhile may be missing here: it is looked up.
        let controls = match self.kernel.controls() {
            Ok(controls) => controls,
            Err(error) => {
                cant_list(&error);
                return;
            }
        };
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        let suspects = without(inner, &controls);
        let lost = self.lose_gone(inner, suspects, &mut changes, now_ms);
        self.mended.add("lost_session", lost);
        self.flush(inner, changes);
        self.drop_idle(inner, &controls);
        let _ = self.settled(desk);
    }

    /// Ends connections to frps that carry no session: a session that ended by mistake comes back,
    /// and no client keeps a second connection for flows that outlive a revocation.
    fn drop_idle(&self, inner: &Inner, controls: &[Control]) {
        let idle = sessionless(inner, controls, boot_ns().saturating_sub(NO_SESSION_NS));
        if idle.is_empty() {
            return;
        }
        // Without tcpMux each user connection has one of frpc's, which names no session: it is let
        // be while a session comes from its address. What flows over it ends with the user's own.
        let homes: BTreeSet<_> = inner
            .sessions
            .values()
            .filter(|session| session.connected() && !self.rules.tcp_mux)
            .map(|session| session.client.ip())
            .collect();
        for control in idle {
            let client = control.socket.client;
            if homes.contains(&client.ip()) {
                continue;
            }
            if self.destroy(control).is_some() {
                self.mended.add("idle_connection", 1);
                tracing::info!(%client, "a connection to frps without a session was ended");
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
        self.forget_tenants(inner, &mut changes, now_ms);
        let forgotten: Vec<_> = inner
            .ports
            .waiting()
            .iter()
            .filter(|(_, waiting)| {
                waiting.cooling_ms < now_ms && !inner.tenants.contains_key(&*waiting.tenant)
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

    /// Forgets tenants that have nothing here, and have had no session for a while.
    fn forget_tenants(&self, inner: &mut Inner, changes: &mut Changes, now_ms: i64) {
        let idle = |(id, tenant): &(&Arc<str>, &Tenant)| {
            tenant.seen_ms + IDLE_TENANT_MS < now_ms
                && !inner.policy.invites.contains_key(id.as_ref())
                && inner.sessions.of_owner(id).next().is_none()
                && inner.ports.count_of(id) == 0
        };
        let mut idle: Vec<(Arc<str>, u32)> = inner
            .tenants
            .iter()
            .filter(idle)
            .map(|(id, tenant)| (Arc::clone(id), tenant.number))
            .collect();
        // A connection that still lives keeps its tenant.
        let lives = |number| {
            let counts = self.kernel.counts(number);
            counts.is_ok_and(|counts| counts.usage.conns > 0)
        };
        idle.retain(|(_, number)| !lives(*number));
        let numbers: Vec<u32> = idle.iter().map(|(_, number)| *number).collect();
        // Whatever becomes of it: the kernel may not have them any more.
        for number in &numbers {
            inner.shown.forget_tenant(*number);
        }
        if let Err(error) = self.kernel.remove_tenants(&numbers) {
            tracing::error!(
                error = error.whole(),
                tenants = numbers.len(),
                "tenants can't be removed from the kernel"
            );
            return;
        }
        for (id, number) in idle {
            inner.cuts.remove(&number);
            inner.tenants.remove(&id);
            changes.remove(TENANTS, &*id);
        }
        // Of those too that were refused before they were anybody's tenant.
        let Inner {
            denied,
            tenants,
            policy,
            ..
        } = inner;
        denied.retain(|id, _| tenants.contains_key(id.as_str()) || policy.invites.contains_key(id));
    }

    /// Past its time a ticket opens nothing; the newest of a session that is known may still resume
    /// it.
    fn forget_tickets(&self, inner: &mut Inner, changes: &mut Changes, now: i64) {
        let mut newest = HashMap::<&str, (i64, &str)>::new();
        for (hash, ticket) in inner.tickets.iter() {
            let best = newest.entry(&ticket.run_id).or_default();
            *best = (*best).max((ticket.exp, &**hash));
        }
        let over = inner.tickets.iter().filter(|(hash, ticket)| {
            let is_newest = *newest[ticket.run_id.as_str()].1 == ***hash;
            let resumes = is_newest && inner.sessions.contains_key(&ticket.run_id);
            !resumes && ticket.past(now)
        });
        let over: Vec<Arc<str>> = over.map(|(hash, _)| Arc::clone(hash)).collect();
        for hash in over {
            inner.tickets.remove(&hash);
            changes.remove(TICKETS, &*hash);
        }
    }

    /// Before the daemon ends, and when nothing else of it runs any more: what was gathered is
    /// told now.
    pub fn finish(&self) {
        self.second();
        self.sum_up();
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        self.tell_refusals(inner, &mut changes, now_ms);
        self.flush(inner, changes);
        let _ = self.settled(desk);
    }
}
