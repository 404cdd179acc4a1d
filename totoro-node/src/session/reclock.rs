//! The clock was set: by the first heartbeat after a machine was started whose own clock is wrong, or by any other.

use super::align::Concerns;
use super::desk::{Desk, Inner};
use super::ports::record_key;
use super::proxy::LATE_MS;
use crate::store::{Changes, HELD, LEASES, SESSIONS, TENANTS};

impl Desk {
    /// The control plane's clock moved against ours: instants on the boot-time clock are written
    /// anew, and what was dated by the clock before does not outlive it.
    pub fn reclock(&self) {
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        self.redate(inner, &mut changes, now_ms);
        inner.shown.forget_ends();
        self.adopt(inner, &[], Concerns::All, &mut changes, now_ms);
        self.flush(inner, changes);
        let _ = self.settled(desk);
    }

    /// What lies ahead of now was dated by a clock that was ahead, and would last for as much longer. When a session
    /// was lost can be wrong either way: it has its whole grace once more.
    fn redate(&self, inner: &mut Inner, changes: &mut Changes, now_ms: i64) {
        for run_id in inner.sessions.no_later(now_ms) {
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
        inner.summed_ms = inner.summed_ms.min(now_ms);
    }
}
