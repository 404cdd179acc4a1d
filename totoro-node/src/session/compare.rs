//! Comparing leases with what frps has: an answer of ours is not yet a proxy, and frps tells of a
//! proxy's end only once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::desk::{Desk, Inner};
use super::failures::Failures;
use super::ports::{Lease, PortId, record_key};
use super::proxy::LATE_MS;
use super::strays::{Proxied, covered};
use crate::store::{Changes, HELD};

/// frps registers a proxy, or has closed it, within this time after our answer, ms.
pub(super) const REGISTERS_MS: i64 = 3_000;

/// Leases that are looked at between two times that others have the desk.
const CHUNK: usize = 1_000;

/// frps's live proxies, found by and by: most are as their leases say, and of those no name is kept.
#[derive(Debug)]
pub struct Online {
    /// When frps was asked, Unix ms.
    asked_ms: i64,
    /// The ports of those that a lease covers, and its number: it may end before they are compared. In order
    /// when all are there: they come by name, and a tree would be half of the work.
    covered: Vec<(PortId, u64)>,
    /// The others by name.
    strays: BTreeMap<String, Proxied>,
}

impl Online {
    /// None yet; frps is asked at this time.
    #[must_use]
    pub fn asked(asked_ms: i64) -> Online {
        Online {
            asked_ms,
            covered: Vec::new(),
            strays: BTreeMap::new(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.covered.len() + self.strays.len()
    }

    /// The port on which frps has the proxy of a lease.
    fn there(&self, port: PortId, lease: &Lease) -> Option<PortId> {
        if self.covered.binary_search(&(port, lease.number)).is_ok() {
            return Some(port);
        }
        self.strays.get(lease.wire()).map(|proxy| proxy.port)
    }
}

impl Desk {
    /// Takes note of live proxies of frps's with their names. The desk is not anybody else's meanwhile: of
    /// many, a few at a time.
    pub fn look(&self, online: &mut Online, proxies: Vec<(String, Proxied)>) {
        let mut inner = self.lock();
        if online.covered.capacity() == 0 {
            // At once: while it grows it would be there twice.
            online.covered.reserve_exact(inner.ports.leases().len());
        }
        for (name, proxy) in proxies {
            match covered(&inner, &name, proxy.port) {
                Some(number) => {
                    inner.unseen.remove(&proxy.port);
                    online.covered.push((proxy.port, number));
                }
                None => {
                    online.strays.insert(name, proxy);
                }
            }
        }
    }

    /// Ends leases whose proxy frps does not have on their port, although it should since it was asked or
    /// longer, and the connections of clients that have a proxy on a port that is not theirs. Returns
    /// how many are too young to tell.
    pub fn compare(&self, mut online: Online) -> usize {
        online.covered.sort_unstable();
        let asked_ms = online.asked_ms;
        let mut differing = Vec::new();
        let mut from = Bound::Unbounded;
        loop {
            let inner = self.lock();
            let mut last = None;
            let leases = inner.ports.leases().range((from, Bound::Unbounded));
            for (port, lease) in leases.take(CHUNK) {
                last = Some(*port);
                let there = online.there(*port, lease);
                if there != Some(*port) {
                    differing.push((*port, lease.number, there));
                }
            }
            match last {
                Some(last) => from = Bound::Excluded(last),
                None => break,
            }
        }
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut young = 0;
        let (mut gone, mut elsewhere) = (Vec::new(), Vec::new());
        let mut changes = Changes::default();
        for (port, number, there) in differing {
            // Still the same lease?
            let lease = inner.ports.leases().get(&port);
            let Some(lease) = lease.filter(|lease| lease.number == number) else {
                continue;
            };
            let renewed = inner
                .late
                .get(&port)
                .map_or(lease.since_ms, |(_, until)| until - LATE_MS);
            if asked_ms < renewed.max(lease.since_ms) + REGISTERS_MS {
                young += 1;
                continue;
            }
            let run_id = lease.run_id.clone();
            tracing::info!(
                node_id = self.rules.node,
                invite_id = &*lease.tenant,
                proxy_name = lease.name(),
                port = %record_key(port),
                there = ?there.map(record_key),
                "frps does not have the proxy of this lease there"
            );
            match there {
                None => gone.push(port),
                Some(_) => elsewhere.push((port, run_id)),
            }
        }
        self.mended.add("lease_without_proxy", gone.len());
        self.mended.add("proxy_elsewhere", elsewhere.len());
        // frps can't open what it was never seen to have, it seems: who leaves the choice to us would get it again and
        // again.
        let never_seen: Vec<PortId> = gone
            .iter()
            .filter(|port| inner.unseen.contains(port))
            .copied()
            .collect();
        self.release(inner, &gone, "not_in_frps", &mut changes, now_ms);
        for port in never_seen {
            if let Some(waiting) = inner.ports.wait_for_none(port) {
                changes.put(HELD, record_key(port), waiting);
            }
        }
        let ports: Vec<PortId> = elsewhere.iter().map(|(port, _)| *port).collect();
        self.release(inner, &ports, "other_port_in_frps", &mut changes, now_ms);
        // frps keeps listening on a port that another may get: only its client's end ends it.
        for (_, run_id) in elsewhere {
            self.disconnect(inner, &run_id);
        }
        self.flush(inner, changes);
        let young = young + self.end_strays(inner, &online.strays, asked_ms);
        self.guard_left(inner, &online);
        let _ = self.settled(desk);
        young
    }

    /// Outside the pool guards what frps listens on, and that alone.
    fn guard_left(&self, inner: &mut Inner, online: &Online) {
        if !inner.leaving.is_empty() {
            let strays = online.strays.values().map(|proxy| proxy.port);
            let there: BTreeSet<_> = strays
                .chain(online.covered.iter().map(|(port, _)| *port))
                .collect();
            let asked_ms = online.asked_ms;
            inner.leaving.retain(|port, (control, since_ms)| {
                let may_come = control.is_some() && asked_ms < *since_ms + REGISTERS_MS;
                there.contains(port) || may_come
            });
        }
        let mut failures = Failures::default();
        self.guard(inner, &mut failures);
        inner.untidy = failures.first().or(inner.untidy.take());
    }
}
