//! The clock was set: by the first heartbeat after a machine was started whose own clock is wrong, or by any other.

use super::align::Concerns;
use super::desk::{Desk, Inner};
use super::ports::record_key;
use super::proxy::LATE_MS;
use crate::store::{Changes, HELD, LEASES, SESSIONS, TENANTS};

/// A clock that is set by as much was wrong; by less, it drifted: some ms with each heartbeat, while the control plane's
/// own is brought in line. No session waits forever for its grace to end meanwhile.
const WRONG_MS: i64 = 1_000;

impl Desk {
    /// The control plane's clock moved against ours by so many ms: instants on the boot-time clock are
    /// written anew, and what was dated by the clock before does not outlive it.
    pub fn reclock(&self, by_ms: i64) {
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        self.redate(inner, by_ms.abs() >= WRONG_MS, &mut changes, now_ms);
        inner.shown.forget_ends();
        self.adopt(inner, &[], Concerns::All, &mut changes, now_ms);
        self.flush(inner, changes);
        let _ = self.settled(desk);
    }

    /// What lies ahead of now was dated by a clock that was ahead, and would last for as much longer. When a session
    /// was lost is wrong either way, where the clock was: it has its whole grace once more. Bans that were made here
    /// for a while are not dated: they end when it was said that they do.
    fn redate(&self, inner: &mut Inner, was_wrong: bool, changes: &mut Changes, now_ms: i64) {
        for run_id in inner.sessions.no_later(now_ms, was_wrong) {
            if let Some(session) = inner.sessions.get(&run_id) {
                changes.put(SESSIONS, &*run_id, session);
            }
        }
        for (id, tenant) in &mut inner.tenants {
            if tenant.seen_ms > now_ms {
                tenant.seen_ms = now_ms;
                changes.put(TENANTS, &**id, &*tenant);
            }
        }
        let (leases, waits) = inner.ports.no_later(self.rules.patience, now_ms);
        for port in leases {
            changes.put(LEASES, record_key(port), &inner.ports.leases()[&port]);
        }
        for port in waits {
            changes.put(HELD, record_key(port), &inner.ports.waiting()[&port]);
        }
        for (_, until) in inner.late.values_mut() {
            *until = (*until).min(now_ms + LATE_MS);
        }
        for (_, since_ms) in inner.leaving.values_mut() {
            *since_ms = (*since_ms).min(now_ms);
        }
        for stray in inner.strays.values_mut() {
            stray.no_later(now_ms);
        }
        inner.refusals.no_later(now_ms);
        inner.spent.no_later(now_ms);
        inner.summed_ms = inner.summed_ms.min(now_ms);
    }
}
