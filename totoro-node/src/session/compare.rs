//! Comparing leases with what frps has: an answer of ours is not yet a proxy, and frps tells of a
//! proxy's end only once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::desk::{Desk, Inner};
use super::failures::Failures;
use super::ports::{PortId, record_key};
use super::proxy::LATE_MS;
use crate::store::Changes;

/// frps registers a proxy, or has closed it, within this time after our answer, ms.
const REGISTERS_MS: i64 = 3_000;

/// Leases or proxies that are looked at between two times that others have the desk.
const CHUNK: usize = 1_000;

impl Desk {
    /// Ends leases whose proxy frps does not have on their port, although it should since
    /// `asked_ms` or longer, and the connections of clients that have a proxy on a port that is not
    /// theirs. `online` are frps's live proxies by name. Returns how many are too young to tell.
    pub fn compare(&self, online: &BTreeMap<String, PortId>, asked_ms: i64) -> usize {
        let (mut differing, strays) = (Vec::new(), self.strays(online));
        let mut from = Bound::Unbounded;
        loop {
            let inner = self.lock();
            let mut last = None;
            let leases = inner.ports.leases().range((from, Bound::Unbounded));
            for (port, lease) in leases.take(CHUNK) {
                last = Some(*port);
                let there = online.get(lease.wire());
                if there != Some(port) {
                    differing.push((*port, lease.number, there.copied()));
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
            let there = there.map(record_key);
            tracing::info!(port = %record_key(port), ?there, "frps does not have the proxy of this lease there");
            let why = if there.is_none() {
                "not_in_frps"
            } else {
                "other_port_in_frps"
            };
            let kind = match there {
                None => "lease_without_proxy",
                Some(_) => "proxy_elsewhere",
            };
            self.mended.add(kind, 1);
            self.release(inner, port, why, &mut changes, now_ms);
            if there.is_some() {
                // frps keeps listening on a port that another may get: only its client's end ends it.
                self.disconnect(inner, &run_id);
            }
        }
        self.flush(inner, changes);
        let young = young + self.end_strays(inner, strays, asked_ms);
        self.guard_left(inner, online, asked_ms);
        let _ = self.settled(desk);
        young
    }

    /// Outside the pool guards what frps listens on, and that alone.
    fn guard_left(&self, inner: &mut Inner, online: &BTreeMap<String, PortId>, asked_ms: i64) {
        if !inner.leaving.is_empty() {
            let there: BTreeSet<&PortId> = online.values().collect();
            inner.leaving.retain(|port, (_, since_ms)| {
                there.contains(port) || asked_ms < *since_ms + REGISTERS_MS
            });
        }
        let mut failures = Failures::default();
        self.guard(inner, &mut failures);
        inner.untidy = failures.first().or(inner.untidy.take());
    }

    /// frps's proxies that no lease covers.
    fn strays(&self, online: &BTreeMap<String, PortId>) -> Vec<(String, PortId)> {
        let online: Vec<(&String, &PortId)> = online.iter().collect();
        let mut strays = Vec::new();
        for chunk in online.chunks(CHUNK) {
            let inner = self.lock();
            let these = chunk
                .iter()
                .filter(|(name, port)| !covered(&inner, name, **port));
            strays.extend(these.map(|(name, port)| ((*name).clone(), **port)));
        }
        strays
    }

    /// Ends the connections of clients whose proxies no lease covers; how many such proxies are too
    /// young to tell. One that was closed while frps was asked is not there the next time.
    fn end_strays(&self, inner: &mut Inner, strays: Vec<(String, PortId)>, asked_ms: i64) -> usize {
        let seen = std::mem::take(&mut inner.strays);
        let strays: BTreeMap<_, _> = strays
            .into_iter()
            .filter(|(name, port)| !covered(inner, name, *port))
            .map(|stray| {
                let since = seen.get(&stray).copied().unwrap_or(asked_ms);
                (stray, since)
            })
            .collect();
        let mut young = 0;
        for ((name, port), since) in &strays {
            if asked_ms < since + REGISTERS_MS {
                young += 1;
                continue;
            }
            let owners = owners(inner, name, *port);
            // Whose it is may not be known any more; then nothing is mended.
            self.mended.add("proxy_without_lease", owners.len().min(1));
            tracing::warn!(proxy_name = name, port = %record_key(*port), sessions = owners.len(), "frps has a proxy that no lease covers");
            for run_id in owners {
                self.disconnect(inner, &run_id);
            }
        }
        inner.strays = strays;
        young
    }
}

/// Whether a lease covers a proxy of frps's.
fn covered(inner: &Inner, name: &str, port: PortId) -> bool {
    let lease = inner.ports.leases().get(&port);
    lease.is_some_and(|lease| lease.wire() == name)
}

/// The sessions that a proxy of frps's may belong to: the one that had its port last, else those
/// of its user, where they are one tenant's.
fn owners(inner: &Inner, name: &str, port: PortId) -> Vec<Arc<str>> {
    let user = name.rsplit_once('.').map_or("", |(user, _)| user);
    let of_user: Vec<_> = inner
        .sessions
        .iter()
        .filter(|(_, session)| session.connected() && session.user == user)
        .collect();
    let last = inner.ports.waiting().get(&port);
    if let Some(last) = last.filter(|last| of_user.iter().any(|(id, _)| **id == last.run_id)) {
        return vec![Arc::clone(&last.run_id)];
    }
    let tenants: BTreeSet<&String> = of_user.iter().map(|(_, session)| &session.tenant).collect();
    if tenants.len() > 1 {
        return Vec::new();
    }
    let ids = of_user.into_iter();
    ids.map(|(id, _)| Arc::clone(id)).collect()
}
