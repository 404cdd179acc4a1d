//! Refusals that come in any number: counted as they happen, told of together a little later.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use totoro_api::Reason;
use totoro_api::wire::event::Subject;

use super::{Frps, lock};
use crate::app::{App, Failure};
use crate::audit::{self, Author};

/// How long refusals are gathered, ms.
const EVERY_MS: i64 = 10_000;
/// Different ones that are gathered at once; the rest go under one name.
const MAX_GATHERED: usize = 10_000;
/// Tenants whose refusals are counted.
const MAX_COUNTED: usize = 100_000;
/// Events in one commit.
const CHUNK: usize = 200;

/// Refusals of one kind.
#[derive(Clone)]
struct Several {
    author: Author,
    node: String,
    subject: Subject,
    count: u64,
    first_ms: i64,
    last_ms: i64,
}

/// What happened since it was last told, and counts since the start.
#[derive(Default)]
pub(super) struct Gathered {
    several: Mutex<HashMap<String, Several>>,
    counts: Mutex<HashMap<(String, String), BTreeMap<Reason, u64>>>,
}

impl App {
    /// Gathers a refusal of `whose`: a tenant, or an address.
    pub(super) fn gather(&self, frps: &Frps<'_>, whose: &str, subject: Subject) {
        let now_ms = self.now_ms();
        let reason = subject.reason.map_or("", Reason::code);
        let (node, proxy) = (&frps.node.id, subject.proxy.as_deref().unwrap_or(""));
        let mut key = format!("{node}\n{whose}\n{}\n{proxy}\n{reason}", subject.kind);
        let mut several = lock(&self.callback.gathered.several);
        if several.len() >= MAX_GATHERED && !several.contains_key(&key) {
            key = format!("{node}\n\n{}\n\n{reason}", subject.kind);
        }
        let of = several.entry(key).or_insert_with(|| Several {
            author: frps.author(),
            node: node.clone(),
            subject,
            count: 0,
            first_ms: now_ms,
            last_ms: now_ms,
        });
        of.count += 1;
        of.last_ms = now_ms;
    }

    /// Tells of what was gathered for long enough; of all of it when the process ends.
    pub(in crate::app) async fn tell_refusals(&self, all: bool) -> Result<(), Failure> {
        let now_ms = self.now_ms();
        let due: Vec<Several> = {
            let mut several = lock(&self.callback.gathered.several);
            let due = |of: &Several| all || of.first_ms + EVERY_MS <= now_ms;
            let keys: Vec<String> = several
                .iter()
                .filter(|(_, of)| due(of))
                .map(|(key, _)| key.clone())
                .collect();
            keys.iter().filter_map(|key| several.remove(key)).collect()
        };
        for several in due.chunks(CHUNK) {
            self.transact(|tx| {
                for of in several {
                    let mut subject = of.subject.clone();
                    if let Some(detail) = subject.detail.as_object_mut() {
                        detail.insert("count".to_owned(), of.count.into());
                        detail.insert("first".to_owned(), audit::rfc3339_ms(of.first_ms).into());
                        detail.insert("last".to_owned(), audit::rfc3339_ms(of.last_ms).into());
                    }
                    let event = of.author.about(subject).node(&of.node);
                    audit::record(tx, event, now_ms)?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Counts a refusal for the tenant's usage.
    pub(super) fn count_refused(&self, node: &str, tenant: &str, reason: Reason) {
        let mut counts = lock(&self.callback.gathered.counts);
        let of = (node.to_owned(), tenant.to_owned());
        if counts.len() >= MAX_COUNTED && !counts.contains_key(&of) {
            // Which of them nobody asks for can't be told: all begin anew.
            counts.clear();
        }
        *counts.entry(of).or_default().entry(reason).or_default() += 1;
    }

    /// A tenant's refusals by reason since the start.
    pub(super) fn refused_of(&self, node: &str, tenant: &str) -> BTreeMap<Reason, u64> {
        let of = (node.to_owned(), tenant.to_owned());
        let counts = lock(&self.callback.gathered.counts);
        counts.get(&of).cloned().unwrap_or_default()
    }
}
