//! What happens without being asked: the kernel's events and counters, and time.

use std::collections::BTreeSet;

use totoro_api::Reason;
use totoro_api::ports::Protocol;
use totoro_api::wire::event::{Subject, kind};
use totoro_ebpf::abi;

use super::desk::{Desk, Ended, Inner};
use super::model::PUBLIC;
use crate::kernel::{Event, boot_ns};
use crate::store::{Changes, HELD, META, SESSIONS, TENANTS, TICKETS};

/// Key in `META`: the kernel's refusal counters as far as they were told.
pub(super) const TOLD: &str = "told";

/// Refusals of one kind under one tenant are told at most this often, ms.
const REFUSED_EVERY_MS: i64 = 10_000;
/// And those that are nobody's (scans of the pool), ms.
const NOBODYS_EVERY_MS: i64 = 60_000;
/// How long ended connections of a lease are gathered, ms.
const SUMMARY_MS: i64 = 60_000;
/// How long a tenant without sessions is kept in the kernel, ms.
const IDLE_TENANT_MS: i64 = 600_000;

impl Desk {
    /// Takes note of an event of the kernel's.
    pub fn on_event(&self, event: &Event) {
        match event.kind {
            abi::EVENT_CONTROL_CLOSED => self.on_control_closed(event.cookie),
            abi::EVENT_OPENED => {
                let mut inner = self.lock();
                let inner = &mut *inner;
                if let Some(lease) = port_of(event).and_then(|port| inner.ports.leases().get(&port))
                    && lease.number == event.lease
                    && let Some(session) = inner.sessions.get_mut(&lease.run_id)
                {
                    session.conns += 1;
                }
            }
            abi::EVENT_CLOSED => self.on_closed(event),
            _ => {}
        }
    }

    fn on_control_closed(&self, cookie: u64) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let inner = &mut *inner;
        // One connection may carry several sessions.
        let lost: Vec<String> = inner
            .sessions
            .iter()
            .filter(|(_, session)| session.connected() && session.cookie == cookie)
            .map(|(run_id, _)| run_id.clone())
            .collect();
        let mut changes = Changes::default();
        for run_id in lost {
            self.lose(inner, &run_id, &mut changes, now_ms);
        }
        self.flush(inner, changes);
    }

    fn on_closed(&self, event: &Event) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let ended = match inner.ended.get_mut(&event.lease) {
            Some(ended) => ended,
            None => {
                let subject = describe(inner, event);
                inner.ended.entry(event.lease).or_insert(Ended {
                    subject,
                    since_ms: now_ms,
                    count: 0,
                    bytes_in: 0,
                    bytes_out: 0,
                    longest_ms: 0,
                })
            }
        };
        ended.count += 1;
        ended.bytes_in += event.bytes_in;
        ended.bytes_out += event.bytes_out;
        ended.longest_ms = ended.longest_ms.max(event.duration_ns / 1_000_000);
    }

    /// Counts a refusal by the plugin, and tells of it: the first at once.
    pub(super) fn deny(&self, tenant: Option<&str>, reason: Reason, key: String, subject: Subject) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(tenant) = tenant
            && (inner.tenants.contains_key(tenant) || inner.policy.invites.contains_key(tenant))
        {
            let counts = inner.denied.entry(tenant.to_owned()).or_default();
            *counts.entry(reason).or_default() += 1;
        }
        inner
            .refusals
            .add(key, subject, 1, (now_ms, now_ms), REFUSED_EVERY_MS);
        self.tell_refusals(inner, now_ms);
    }

    fn tell_refusals(&self, inner: &mut Inner, now_ms: i64) {
        let due = inner.refusals.due(now_ms);
        if due.is_empty() {
            return;
        }
        let mut changes = Changes::default();
        let kernels = due.iter().any(|subject| subject.kind == kind::CONN_REFUSED);
        for subject in due {
            changes.tell(now_ms, subject);
        }
        if kernels {
            // What waits to be told counts as untold: it must survive a restart.
            let told: std::collections::BTreeMap<&String, u64> = inner
                .told
                .iter()
                .map(|(key, count)| {
                    (
                        key,
                        count.saturating_sub(inner.refusals.pending(&conn_key(key))),
                    )
                })
                .collect();
            changes.put(META, TOLD, &told);
        }
        self.flush(inner, changes);
    }

    /// Four times a second: what time has ended.
    pub fn tick(&self) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut changes = Changes::default();
        if let Err(error) = self.expire(inner, &mut changes, now_ms) {
            tracing::error!(
                error = format!("{error:#}"),
                "what has expired can't be ended; again soon"
            );
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
        self.flush(inner, changes);
        self.tell_refusals(inner, now_ms);
    }

    /// Every second: the kernel's counters, and its sweep.
    pub fn second(&self) {
        if let Err(error) = self.kernel.sweep() {
            tracing::error!(%error, cause = %error.source, "the sweep failed");
        }
        let refused = match self.kernel.refused() {
            Ok(refused) => refused,
            Err(error) => {
                tracing::error!(%error, cause = %error.source, "refusals can't be read");
                return;
            }
        };
        let now_ms = self.clock.now_ms();
        let now_ns = boot_ns();
        let mut inner = self.lock();
        let inner = &mut *inner;
        for counter in &refused {
            let key = format!("{}/{}", counter.tenant, counter.reason);
            let told = inner.told.get(&key).copied().unwrap_or(0);
            // Below what was told: the pins are new (the machine was booted again).
            let told = if counter.count < told { 0 } else { told };
            let more = counter.count - told;
            inner.told.insert(key.clone(), counter.count);
            if more == 0 {
                continue;
            }
            let ago_ms = i64::try_from(now_ns.saturating_sub(counter.last_ns) / 1_000_000);
            let last_ms = now_ms - ago_ms.unwrap_or(0);
            let first_ms = if more == 1 {
                last_ms
            } else {
                last_ms.min(now_ms - 1000)
            };
            let id = tenant_id(inner, counter.tenant);
            let subject = Subject {
                kind: kind::CONN_REFUSED.to_owned(),
                invite: id.clone().filter(|id| !id.starts_with(PUBLIC)),
                reason: Some(counter.reason),
                detail: serde_json::json!({ "tenant": id }),
                ..Subject::default()
            };
            tracing::warn!(
                node_id = self.rules.node,
                invite_id = id.as_deref().unwrap_or_default(),
                reason = counter.reason.code(),
                count = more,
                "connections refused"
            );
            let every = if counter.tenant == 0 {
                NOBODYS_EVERY_MS
            } else {
                REFUSED_EVERY_MS
            };
            inner
                .refusals
                .add(conn_key(&key), subject, more, (first_ms, last_ms), every);
        }
        // Only counters that still exist are remembered.
        let live: BTreeSet<String> = refused
            .iter()
            .map(|counter| format!("{}/{}", counter.tenant, counter.reason))
            .collect();
        inner.told.retain(|key, _| live.contains(key));
        self.tell_refusals(inner, now_ms);
        self.tell_ended(inner, now_ms);
    }

    fn tell_ended(&self, inner: &mut Inner, now_ms: i64) {
        let leased: BTreeSet<u64> = inner
            .ports
            .leases()
            .values()
            .map(|lease| lease.number)
            .collect();
        let due: Vec<u64> = inner
            .ended
            .iter()
            .filter(|(lease, ended)| {
                let wait = if leased.contains(lease) {
                    SUMMARY_MS
                } else {
                    1_000
                };
                ended.since_ms + wait <= now_ms
            })
            .map(|(lease, _)| *lease)
            .collect();
        let mut changes = Changes::default();
        for lease in due {
            if let Some(ended) = inner.ended.remove(&lease) {
                changes.tell(now_ms, summary(ended, now_ms));
            }
        }
        self.flush(inner, changes);
    }

    /// Every few seconds: connections whose end was not heard of.
    pub fn look_for_lost(&self) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut changes = Changes::default();
        self.find_lost(inner, None, &mut changes, now_ms);
        // Counts of connections are kept in memory between changes.
        for (run_id, session) in &inner.sessions {
            changes.put(SESSIONS, run_id.as_str(), session);
        }
        self.flush(inner, changes);
    }

    /// Every minute: forgets what can't matter any more.
    pub fn forget(&self) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut changes = Changes::default();
        inner.tickets.retain(|hash, ticket| {
            let bound = inner.sessions.contains_key(&ticket.run_id);
            let keep = bound || ticket.until > now_ms / 1000;
            if !keep {
                changes.remove(TICKETS, hash.as_str());
            }
            keep
        });
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
                tracing::error!(%error, tenant = id, "a tenant can't be removed from the kernel");
                continue;
            }
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
    }

    /// Before the daemon ends: what was gathered is told now.
    pub fn finish(&self) {
        let now_ms = self.clock.now_ms();
        self.second();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut changes = Changes::default();
        for (_, ended) in std::mem::take(&mut inner.ended) {
            changes.tell(now_ms, summary(ended, now_ms));
        }
        for (run_id, session) in &inner.sessions {
            changes.put(SESSIONS, run_id.as_str(), session);
        }
        self.flush(inner, changes);
    }
}

fn conn_key(counter: &str) -> String {
    format!("conn/{counter}")
}

fn port_of(event: &Event) -> Option<(Protocol, u16)> {
    let protocol = Protocol::ALL
        .into_iter()
        .find(|known| known.ip_number() == event.proto)?;
    Some((protocol, event.port))
}

/// The id of a tenant's number.
fn tenant_id(inner: &Inner, number: u32) -> Option<String> {
    let of = |(_, tenant): &(&String, &super::model::Tenant)| tenant.number == number;
    inner.tenants.iter().find(of).map(|(id, _)| id.clone())
}

/// What a lease's ended connections are about; the lease itself may be gone already.
fn describe(inner: &Inner, event: &Event) -> Subject {
    let mut subject = Subject {
        kind: kind::CONN_CLOSED.to_owned(),
        invite: tenant_id(inner, event.tenant).filter(|id| !id.starts_with(PUBLIC)),
        lease: Some(event.lease.to_string()),
        port: Some(event.port),
        ..Subject::default()
    };
    if let Some(lease) = port_of(event).and_then(|port| inner.ports.leases().get(&port))
        && lease.number == event.lease
    {
        subject.proxy = Some(lease.name.clone());
        subject.session = inner
            .sessions
            .get(&lease.run_id)
            .map(|session| session.id.clone());
    }
    subject
}

fn summary(ended: Ended, now_ms: i64) -> Subject {
    Subject {
        detail: serde_json::json!({
            "count": ended.count,
            "first_ms": ended.since_ms,
            "last_ms": now_ms,
            "bytes_in": ended.bytes_in,
            "bytes_out": ended.bytes_out,
            "longest_ms": ended.longest_ms,
        }),
        ..ended.subject
    }
}
