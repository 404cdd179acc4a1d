//! What the kernel's events bring, and summaries of user connections. Events are hints, and may be
//! lost; what is told is counted by the kernel.

use serde_json::Value;
use totoro_api::decide::LeaseTold;
use totoro_api::wire::event::kind;
use totoro_ebpf::abi;

use super::desk::{Desk, Inner};
use super::model::Session;
use super::ports::{Lease, PortId, Summed, port_key, port_of, record_key};
use crate::kernel::{Event, LeaseCounts};
use crate::store::{Changes, LEASES};

/// How often ended connections of a lease are told of, ms.
const SUMMARY_MS: i64 = 60_000;

impl Desk {
    /// Takes note of events of the kernel's, in their order.
    pub fn on_events(&self, events: &[Event]) {
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        let mut lost = Vec::new();
        for event in events {
            match event.kind {
                abi::EVENT_CONTROL_CLOSED => {
                    // One connection may carry several sessions.
                    lost.extend(inner.sessions.on(event.cookie).map(str::to_owned));
                }
                abi::EVENT_CLOSED => {
                    let longest = inner.longest_ms.entry(event.lease).or_default();
                    *longest = (*longest).max(event.duration_ns / 1_000_000);
                }
                _ => {}
            }
        }
        self.hang_up(inner, &lost, &mut changes, now_ms);
        if !changes.is_empty() {
            self.flush(inner, changes);
            let _ = self.settled(desk);
        }
    }

    /// Whether it is time to tell of the user connections that ended: once a minute.
    pub(super) fn sums_up(inner: &Inner, now_ms: i64) -> bool {
        !(0..SUMMARY_MS).contains(&(now_ms - inner.summed_ms))
    }

    /// Tells of the user connections that ended since the last time. Most leases had none: those are
    /// left out before anybody has to wait for it.
    pub(super) fn sum_up(&self) {
        let usage = match self.kernel.port_usage() {
            Ok(usage) => usage,
            Err(error) => {
                tracing::error!(error = error.whole(), "leases can't be summed up");
                return;
            }
        };
        let had_some = |(key, usage): (_, abi::PortUsage)| {
            let ended = usage.admitted.saturating_sub(usage.conns);
            Some((port_of(key)?, ended)).filter(|_| ended > 0)
        };
        let ports: Vec<(PortId, u64)> = usage.into_iter().filter_map(had_some).collect();
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        let mut changes = Changes::default();
        self.sum_up_ports(inner, ports, &mut changes, now_ms);
        self.flush(inner, changes);
        let _ = self.settled(desk);
    }

    fn sum_up_ports(
        &self,
        inner: &mut Inner,
        ports: Vec<(PortId, u64)>,
        changes: &mut Changes,
        now_ms: i64,
    ) {
        // Of leases that are gone all was told as they ended.
        let mut longest = std::mem::take(&mut inner.longest_ms);
        let since_ms = std::mem::replace(&mut inner.summed_ms, now_ms);
        for (port, ended) in ports {
            let Some(lease) = inner.ports.leases().get(&port) else {
                continue;
            };
            if ended <= lease.summed().conns {
                continue;
            }
            let Some(tenant) = inner.tenants.get(&*lease.tenant) else {
                continue;
            };
            let counts = match self.kernel.lease_counts(tenant.number, port_key(port)) {
                Ok(counts) => counts,
                Err(error) => {
                    tracing::error!(error = error.whole(), port = %record_key(port), "a lease can't be summed up");
                    continue;
                }
            };
            let longest_ms = longest.remove(&lease.number).unwrap_or(0);
            let first_ms = since_ms.max(lease.since_ms);
            let summed = summary(lease, &counts, first_ms, now_ms, longest_ms);
            let Some((summed, detail)) = summed else {
                continue;
            };
            let session = inner.sessions.get(&lease.run_id);
            let holder = session.map(Session::as_holder);
            changes.tell(
                now_ms,
                &LeaseTold::new(kind::CONN_CLOSED, lease, port, holder, detail),
            );
            if let Some(lease) = inner.ports.sum(port, summed) {
                changes.put(LEASES, record_key(port), lease);
            }
        }
    }
}

/// What ended on a lease since the last summary, and what of it is told then; `None` when nothing.
pub(super) fn summary(
    lease: &Lease,
    counts: &LeaseCounts,
    first_ms: i64,
    last_ms: i64,
    longest_ms: u64,
) -> Option<(Summed, Value)> {
    let before = lease.summed();
    let now = Summed {
        conns: counts.admitted.saturating_sub(counts.live),
        bytes_in: counts.bytes_in,
        bytes_out: counts.bytes_out,
    };
    if now.conns <= before.conns {
        return None;
    }
    let detail = serde_json::json!({
        "count": now.conns - before.conns,
        "first_ms": first_ms,
        "last_ms": last_ms,
        "bytes_in": now.bytes_in.saturating_sub(before.bytes_in),
        "bytes_out": now.bytes_out.saturating_sub(before.bytes_out),
        "longest_ms": longest_ms,
    });
    Some((now, detail))
}
