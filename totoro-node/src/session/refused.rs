//! Telling of refusals: the plugin's as they happen, the kernel's from its counters. They are
//! gathered, and written four times a second at most: whoever is refused must not cost a disk write
//! each time.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};
use totoro_api::Reason;
use totoro_api::wire::event::{Subject, kind};
use totoro_ebpf::abi::CANARY;

use super::desk::{Desk, Inner};
use super::model::{PUBLIC, Tenant};
use crate::kernel::{Refused, boot_ns};
use crate::store::{Changes, META};

/// Key in `META`: the kernel's refusal counters as far as they were told.
pub(super) const TOLD: &str = "told_refusals";

/// Refusals of one kind under one tenant are told at most this often, ms.
const REFUSED_EVERY_MS: i64 = 10_000;
/// And those that are nobody's (scans of the pool), ms.
const NOBODYS_EVERY_MS: i64 = 60_000;

/// After so many seconds in which the kernel refused nobody, its counters are read every few seconds only: to find
/// nothing new is a walk through a large table.
const QUIET: (u32, u32) = (10, 5);

/// Seconds since the kernel was seen to refuse somebody.
#[derive(Debug, Default)]
pub(super) struct Unrefused(AtomicU32);

impl Unrefused {
    /// Whether to look, each second.
    pub(super) fn is_due(&self) -> bool {
        let seconds = self.0.fetch_add(1, Relaxed);
        seconds < QUIET.0 || seconds.is_multiple_of(QUIET.1)
    }

    fn begin_again(&self) {
        self.0.store(0, Relaxed);
    }
}

/// The kernel's refusal counters, as far as they were told, by `tenant/reason`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Told {
    /// Counters of another boot are other counters.
    boot: String,
    counts: BTreeMap<String, u64>,
}

impl Told {
    /// Nothing, when these are another boot's.
    pub(super) fn of_this_boot(self) -> Told {
        let boot = crate::machine::boot_id();
        if self.boot == boot {
            return self;
        }
        Told {
            boot,
            counts: BTreeMap::new(),
        }
    }

    /// How many more a counter has now than were told; they count as told from here on.
    fn more(&mut self, key: &str, count: u64) -> u64 {
        let told = self.counts.insert(key.to_owned(), count).unwrap_or(0);
        // Below what was told: the pins are new.
        count.checked_sub(told).unwrap_or(count)
    }
}

impl Desk {
    /// Counts a refusal by the plugin; the next tick tells of it.
    pub(super) fn deny(&self, tenant: Option<&str>, reason: Reason, what: &str, subject: Subject) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(tenant) = tenant
            && (inner.tenants.contains_key(tenant) || inner.policy.invites.contains_key(tenant))
        {
            let counts = inner.denied.entry(tenant.to_owned()).or_default();
            *counts.entry(reason).or_default() += 1;
        }
        let tenant = tenant.unwrap_or_default();
        // Anonymous tenants come in any number, so they share one owner's room.
        let owner = if tenant.starts_with(PUBLIC) {
            PUBLIC
        } else {
            tenant
        };
        inner.refusals.add(
            owner,
            format!("{what}/{tenant}/{reason}"),
            subject,
            1,
            (now_ms, now_ms),
            REFUSED_EVERY_MS,
        );
    }

    /// Tells of the refusals that are due.
    pub(super) fn tell_refusals(&self, inner: &mut Inner, changes: &mut Changes, now_ms: i64) {
        let due = inner.refusals.due(now_ms);
        let mut kernels = false;
        for (at_ms, subject) in due {
            if subject.kind == kind::CONN_REFUSED {
                kernels = true;
                // As seldom as the trail: a pool that is scanned all day fills no log.
                tracing::info!(
                    node_id = self.rules.node,
                    invite_id = subject.detail["tenant"].as_str().unwrap_or_default(),
                    reason = subject.reason.map(Reason::code).unwrap_or_default(),
                    count = subject.detail["count"].as_u64().unwrap_or_default(),
                    "connections refused"
                );
            }
            changes.tell(at_ms, &subject);
        }
        if kernels {
            // What waits to be told counts as untold: it must survive a restart.
            let untold = |key: &String| inner.refusals.pending(&owner_of(key), key);
            let counts = inner.told.counts.iter();
            let told = Told {
                boot: inner.told.boot.clone(),
                counts: counts
                    .map(|(key, count)| (key.clone(), count.saturating_sub(untold(key))))
                    .collect(),
            };
            changes.put(META, TOLD, &told);
        }
    }

    /// Gathers what the kernel refused since the last time.
    pub(super) fn gather_refused(&self, inner: &mut Inner, refused: Vec<Refused>, now_ms: i64) {
        if inner.refused == refused {
            return;
        }
        self.unrefused.begin_again();
        let now_ns = boot_ns();
        let before = std::mem::take(&mut inner.refused);
        let moved = |one: &&Refused| {
            let key = |one: &Refused| (one.tenant, one.reason);
            let at = before.binary_search_by_key(&key(one), key);
            at.map_or(true, |at| before[at] != **one)
        };
        let ids = Ids::default();
        // The canary is refused on purpose.
        let ours = || refused.iter().filter(|one| one.tenant != CANARY);
        for counter in ours().filter(moved) {
            let key = format!("{}/{}", counter.tenant, counter.reason);
            let more = inner.told.more(&key, counter.count);
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
            let id = ids.of(inner, counter.tenant);
            let subject = Subject {
                kind: kind::CONN_REFUSED.to_owned(),
                invite: id
                    .as_deref()
                    .filter(|id| !id.starts_with(PUBLIC))
                    .map(str::to_owned),
                reason: Some(counter.reason),
                detail: serde_json::json!({ "tenant": id }),
                ..Subject::default()
            };
            let every = if counter.tenant == 0 {
                NOBODYS_EVERY_MS
            } else {
                REFUSED_EVERY_MS
            };
            let owner = owner_of(&key);
            inner
                .refusals
                .add(&owner, key, subject, more, (first_ms, last_ms), every);
        }
        // Only counters that still exist are remembered.
        if inner.told.counts.len() > ours().count() {
            let live: BTreeSet<String> = ours()
                .map(|counter| format!("{}/{}", counter.tenant, counter.reason))
                .collect();
            inner.told.counts.retain(|key, _| live.contains(key));
        }
        inner.refused = refused;
    }
}

/// The kernel's counters have their own room: it has fewer reasons than there is room for.
fn owner_of(counter: &str) -> String {
    let tenant = counter.split('/').next().unwrap_or_default();
    format!("kernel:{tenant}")
}

/// The ids of tenants' numbers, gathered with the first that is asked for.
#[derive(Default)]
struct Ids(OnceCell<HashMap<u32, Arc<str>>>);

impl Ids {
    fn of(&self, inner: &Inner, number: u32) -> Option<Arc<str>> {
        let id = |(id, tenant): (&Arc<str>, &Tenant)| (tenant.number, Arc::clone(id));
        let all = || inner.tenants.iter().map(id).collect();
        self.0.get_or_init(all).get(&number).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refuses_nobody_is_asked_less_often_until_it_does() {
        let unrefused = Unrefused::default();
        let looks = |seconds: u32| (0..seconds).filter(|_| unrefused.is_due()).count();
        assert_eq!(looks(10), 10);
        assert_eq!(looks(50), 10);
        unrefused.begin_again();
        assert_eq!(looks(10), 10);
    }

    #[test]
    fn counters_of_another_boot_are_other_counters() {
        let mut told = Told::default().of_this_boot();
        assert_eq!(told.more("2/max_conns", 5), 5);
        assert_eq!(told.more("2/max_conns", 7), 2);
        let mut same = told.clone().of_this_boot();
        assert_eq!(same.more("2/max_conns", 8), 1);
        told.boot = "another".to_owned();
        let mut other = told.of_this_boot();
        assert_eq!(other.more("2/max_conns", 8), 8);
    }
}
