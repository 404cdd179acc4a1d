//! Leases that ended, and whose counters are in the kernel still: until what was counted is durable, and then
//! for a while, since whoever comes back finds its port's counters made.

use std::collections::BTreeMap;

use parking_lot::MutexGuard;
use totoro_ebpf::abi::CANARY;

use super::desk::Desk;
use super::ports::{PortId, port_key, port_of, record_key};
use crate::store::Place;

/// How long counters stay that nobody needs, ms: frpc waits up to 20 s between two tries.
const KEPT_MS: i64 = 30_000;
/// The most of those.
const KEPT: usize = 4_096;
/// Leases that the kernel's tables have room for.
const ROOM: usize = 65_536;
/// Those that are forgotten between two times that others have the desk.
const AT_ONCE: usize = 4;

/// One.
#[derive(Debug)]
pub(super) struct Spent {
    /// The tenant's number.
    pub(super) tenant: u32,
    ended_ms: i64,
    /// Where its counts become durable; `None` = they wait for the disk.
    place: Option<Place>,
}

impl Spent {
    fn is_durable(&self) -> bool {
        self.place.as_ref().is_some_and(Place::is_durable)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct AllSpent {
    by_port: BTreeMap<PortId, Spent>,
    /// Those that are in no batch yet, and maybe others.
    waiting: Vec<PortId>,
}

impl AllSpent {
    /// A lease has ended: what was counted on it goes to the disk with the next batch.
    pub(super) fn ends(&mut self, port: PortId, tenant: u32, now_ms: i64) {
        let one = Spent {
            tenant,
            ended_ms: now_ms,
            place: None,
        };
        self.by_port.insert(port, one);
        self.waiting.push(port);
    }

    /// The port is leased again.
    pub(super) fn take(&mut self, port: PortId) -> Option<Spent> {
        self.by_port.remove(&port)
    }

    /// What waits becomes durable there.
    pub(super) fn put_in(&mut self, place: &Place) {
        for port in self.waiting.drain(..) {
            if let Some(spent) = self.by_port.get_mut(&port) {
                spent.place.get_or_insert_with(|| place.clone());
            }
        }
    }

    /// What was in a batch that failed waits again.
    pub(super) fn make_up(&mut self) {
        for (port, spent) in &mut self.by_port {
            if spent.place.take_if(|place| place.has_failed()).is_some() {
                self.waiting.push(*port);
            }
        }
    }

    /// Whose counters are to go, and when each ended: those that stayed for long enough, and the oldest where there
    /// are many, or where they take the half of what room the leases leave.
    fn due(&self, leases: usize, now_ms: i64) -> Vec<(PortId, i64)> {
        let all = self.by_port.iter().filter(|(_, spent)| spent.is_durable());
        let mut all: Vec<_> = all.map(|(port, spent)| (*port, spent.ended_ms)).collect();
        let keep = KEPT.min(ROOM.saturating_sub(leases) / 2);
        let surplus = all.len().saturating_sub(keep);
        if surplus > 0 {
            all.select_nth_unstable_by_key(surplus - 1, |(_, ended_ms)| *ended_ms);
        }
        let rest = all.split_off(surplus);
        let old = |(_, ended_ms): &(PortId, i64)| ended_ms.saturating_add(KEPT_MS) <= now_ms;
        all.extend(rest.into_iter().filter(old));
        all
    }

    /// One that was due, unless its port was leased since: what ended then may be on its way to the disk still.
    fn take_due(&mut self, (port, ended_ms): (PortId, i64)) -> Option<Spent> {
        let spent = self.by_port.get(&port)?;
        let same = spent.ended_ms == ended_ms && spent.is_durable();
        same.then(|| self.by_port.remove(&port)).flatten()
    }

    /// None ended in what is to come.
    pub(super) fn no_later(&mut self, now_ms: i64) {
        for spent in self.by_port.values_mut() {
            spent.ended_ms = spent.ended_ms.min(now_ms);
        }
    }

    /// Counters of nobody's lease: what a daemon that was killed left.
    fn adopt(&mut self, port: PortId, tenant: u32, now_ms: i64) {
        let one = Spent {
            tenant,
            ended_ms: now_ms,
            place: Some(Place::durable()),
        };
        self.by_port.entry(port).or_insert(one);
    }
}

impl Desk {
    /// Forgets counters that are due. No part of a decision, and a few at a time, for decisions wait meanwhile.
    pub(super) fn forget_spent(&self) {
        let inner = self.lock();
        let leases = inner.ports.leases().len();
        let due = inner.spent.due(leases, self.clock.now_ms());
        drop(inner);
        for some in due.chunks(AT_ONCE) {
            let mut inner = self.lock();
            for one in some {
                let Some(spent) = inner.spent.take_due(*one) else {
                    continue;
                };
                if let Err(error) = self.kernel.forget_lease(spent.tenant, port_key(one.0)) {
                    // Counts that nobody reads; the port's next lease begins by clearing them.
                    tracing::warn!(error = error.whole(), port = %record_key(one.0), "old counts stay");
                }
            }
            MutexGuard::unlock_fair(inner);
        }
    }

    /// Takes note of counters that a daemon left which was killed before it forgot them, or that the kernel kept.
    /// Soon after a start, and then seldom: all of the kernel's counters are listed for it.
    pub fn adopt_spent(&self) {
        // Before the desk is locked: whoever ended since is known.
        let counted = match self.kernel.counted() {
            Ok(counted) => counted,
            Err(error) => {
                tracing::error!(error = error.whole(), "counters can't be listed");
                return;
            }
        };
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        for (tenant, key) in counted {
            let Some(port) = port_of(key).filter(|_| tenant != CANARY) else {
                continue;
            };
            // Another tenant's old counts beside a lease stay until that ends: the port's own go with them.
            if !inner.ports.leases().contains_key(&port) {
                inner.spent.adopt(port, tenant, now_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use totoro_api::ports::Protocol;

    use super::*;

    fn port(nth: u16) -> PortId {
        (Protocol::Tcp, 20_000 + nth)
    }

    /// Leases of one tenant that ended at these times, and are durable.
    fn ended(at_ms: impl IntoIterator<Item = i64>) -> AllSpent {
        let mut all = AllSpent::default();
        for (nth, at_ms) in (0..).zip(at_ms) {
            all.ends(port(nth), 1, at_ms);
        }
        all.put_in(&Place::durable());
        all
    }

    #[test]
    fn counters_go_when_they_are_durable_and_nobody_came_back() {
        let mut all = ended([0, 10]);
        all.ends(port(2), 1, 0);
        assert_eq!(all.due(0, KEPT_MS - 1), []);
        assert_eq!(all.due(0, KEPT_MS), [(port(0), 0)]);
        assert_eq!(all.due(0, KEPT_MS + 10).len(), 2, "the last is not durable");
        // Leased again, and ended again, since they were due.
        assert_eq!(all.take(port(0)).map(|spent| spent.tenant), Some(1));
        assert!(all.take_due((port(0), 0)).is_none());
        all.ends(port(0), 1, 0);
        assert!(all.take_due((port(0), 0)).is_none(), "not durable");
        all.put_in(&Place::default());
        assert!(all.take_due((port(0), 0)).is_none(), "on its way");
        all.ends(port(0), 1, 0);
        all.ends(port(1), 1, 20);
        assert!(all.take_due((port(1), 10)).is_none(), "another");
        all.put_in(&Place::durable());
        assert!(all.take_due((port(0), 0)).is_some());
        assert!(all.take_due((port(0), 0)).is_none(), "once");
    }

    #[test]
    fn the_oldest_go_where_there_are_many_or_no_room() {
        let many = KEPT as i64 + 3;
        // The newest first, so that their order is not the ports'.
        let all = ended((0..many).rev());
        let ended_ms = |leases| {
            let mut due: Vec<i64> = all.due(leases, many).iter().map(|one| one.1).collect();
            due.sort_unstable();
            due
        };
        assert_eq!(ended_ms(0), [0, 1, 2]);
        assert_eq!(ended_ms(ROOM - 2 * KEPT), [0, 1, 2]);
        assert_eq!(ended_ms(ROOM - 2 * KEPT + 2), [0, 1, 2, 3]);
        assert_eq!(ended_ms(ROOM).len(), KEPT + 3);
        assert_eq!(ended_ms(ROOM + 1).len(), KEPT + 3);
    }

    #[test]
    fn what_nobody_leases_is_adopted_once() {
        let mut all = ended([5]);
        all.adopt(port(0), 9, 50);
        all.adopt(port(1), 9, 50);
        assert_eq!(all.due(0, 50 + KEPT_MS - 1), [(port(0), 5)]);
        assert_eq!(all.due(0, 50 + KEPT_MS).len(), 2);
        assert_eq!(all.take(port(0)).map(|spent| spent.tenant), Some(1));
    }
}
