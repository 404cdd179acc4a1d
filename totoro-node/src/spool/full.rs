//! What gives way in a full spool: first the oldest samples and sums, then the oldest of all. One
//! `audit.lost` stands where the first of them was and says up to where some are missing, and how
//! many of each kind; what is left in between follows it.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use totoro_api::wire::event::{NodeEvent, Subject, kind};

use super::waiting::{Entry, LOSS, NEXT};
use super::{Event, MAX_BATCH, parse, put_event, put_number, read};
use crate::store::{Kind, Log, Ops, Reader};

/// How much room is made at once: this part of the bound, and so many bytes at most.
const PART: u64 = 16;
const MOST: u64 = 4 << 20;

/// Whether events of this kind are samples or sums of what repeats: they go first.
pub(crate) fn is_sampled(of: &str) -> bool {
    [
        kind::CONN_REFUSED,
        kind::CONN_CLOSED,
        kind::SESSION_REFUSED,
        kind::PROXY_REFUSED,
    ]
    .contains(&of)
}

/// How many events of each kind, those among them that an earlier loss counted.
pub(crate) fn by_kind(
    subjects: impl Iterator<Item = impl Borrow<Subject>>,
) -> BTreeMap<String, u64> {
    let mut by_kind = BTreeMap::new();
    for subject in subjects {
        count(&mut by_kind, subject.borrow());
    }
    by_kind
}

fn count(by_kind: &mut BTreeMap<String, u64>, subject: &Subject) {
    if subject.kind != kind::AUDIT_LOST {
        *by_kind.entry(subject.kind.clone()).or_default() += 1;
        return;
    }
    let earlier = subject.detail["by_kind"].as_object();
    for (kind, count) in earlier.into_iter().flatten() {
        *by_kind.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
    }
}

/// An event that is not written yet.
struct Fresh {
    value: Vec<u8>,
    sampled: bool,
}

/// What a commit does to the spool: nothing of it is so before it is durable.
pub(super) struct Plan<'a> {
    log: &'a Log,
    reader: Reader<'a>,
    max: u64,
    /// What waits then, bytes.
    bytes: u64,
    next: u64,
    /// The event that tells of a loss.
    loss: u64,
    /// Of what waits now, what is gone then.
    gone: BTreeSet<u64>,
    /// In the place of something gone, or behind all that waits now.
    fresh: BTreeMap<u64, Fresh>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(log: &'a Log, max: u64) -> Plan<'a> {
        let waiting = log.waiting();
        Plan {
            log,
            reader: log.reader(),
            max,
            bytes: waiting.bytes(),
            next: waiting.next,
            loss: waiting.loss,
            gone: BTreeSet::new(),
            fresh: BTreeMap::new(),
        }
    }

    /// Appends the next event. In a full spool others give way, or it does.
    pub(super) fn append(&mut self, boot: &str, event: &Event) -> Result<()> {
        self.insert(self.next, boot, event)?;
        self.next += 1;
        if self.bytes > self.max {
            self.give_way()?;
        }
        Ok(())
    }

    /// Writes it down.
    pub(super) fn finish(self, ops: &mut Ops) {
        if !self.gone.is_empty() {
            let seqs: Vec<u8> = self.gone.iter().flat_map(|seq| seq.to_le_bytes()).collect();
            ops.push(Kind::Drop, 0, &[], &seqs);
        }
        for (seq, event) in &self.fresh {
            put_event(ops, *seq, event.sampled, &event.value);
        }
        put_number(ops, NEXT, self.next);
        if self.loss != self.log.waiting().loss {
            put_number(ops, LOSS, self.loss);
        }
    }

    fn insert(&mut self, seq: u64, boot: &str, event: &Event) -> Result<()> {
        let value = event.written(seq, boot)?;
        let sampled = event.is_sampled();
        self.bytes += value.len() as u64;
        self.fresh.insert(seq, Fresh { value, sampled });
        Ok(())
    }

    /// Takes an event out, if it is there.
    fn take(&mut self, seq: u64) -> Result<Option<NodeEvent>> {
        if let Some(fresh) = self.fresh.remove(&seq) {
            self.bytes -= fresh.value.len() as u64;
            return parse(seq, &fresh.value).map(Some);
        }
        match self.log.waiting().find(seq) {
            Some(entry) if self.gone.insert(seq) => {
                self.bytes -= entry.bytes();
                read(&mut self.reader, entry).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Makes room. The oldest batch stays: it may be under way, and an event that arrived is not
    /// lost.
    fn give_way(&mut self) -> Result<()> {
        let Some(kept) = self.last_of_batch() else {
            return Ok(());
        };
        let mut lost = Lost::default();
        // What was lost before and is not told of yet is told of together with what is lost now.
        if self.loss > kept
            && let Some(earlier) = self.take(self.loss)?
        {
            lost.add(earlier);
        }
        let wanted = self.max - (self.max / PART).min(MOST);
        let mut events = 0;
        for only_samples in [true, false] {
            for seq in self.oldest(kept, wanted, only_samples) {
                if let Some(event) = self.take(seq)? {
                    lost.add(event);
                    events += 1;
                }
            }
        }
        tracing::error!(
            events,
            left_bytes = self.bytes,
            "the spool is full; its oldest events give way, samples first"
        );
        if let Some(told) = lost.told() {
            let event = Event::new(told.at_ms, &told.subject);
            self.insert(told.seq, &told.boot, &event)?;
            self.loss = told.seq;
        }
        Ok(())
    }

    /// What waits from `seq` on, in order: seq, bytes, whether it is a sample. No event that tells of
    /// a loss in this commit is among it: it was taken out.
    fn from(&self, seq: u64) -> impl Iterator<Item = (u64, u64, bool)> {
        let of = |entry: &Entry| (entry.seq, entry.bytes(), entry.sampled);
        let gone = |entry: &&Entry| self.gone.is_empty() || !self.gone.contains(&entry.seq);
        let old = self.log.waiting().from(seq).filter(gone).map(of);
        let fresh = self.fresh.range(seq.max(self.log.waiting().next)..);
        old.chain(fresh.map(|(seq, event)| (*seq, event.value.len() as u64, event.sampled)))
    }

    /// The seq of the oldest batch's last event; `None` where there is no more than that.
    fn last_of_batch(&self) -> Option<u64> {
        self.from(0).nth(MAX_BATCH - 1).map(|(seq, ..)| seq)
    }

    /// The oldest that may give way, as many as it takes, in order.
    fn oldest(&self, kept: u64, wanted: u64, only_samples: bool) -> Vec<u64> {
        let mut bytes = self.bytes;
        let mut chosen = Vec::new();
        let all = self.from(kept + 1);
        for (seq, takes, _) in all.filter(|(.., sampled)| *sampled || !only_samples) {
            if bytes <= wanted {
                break;
            }
            bytes -= takes;
            chosen.push(seq);
        }
        chosen
    }
}

/// What is to be told of what gave way.
#[derive(Default)]
struct Lost {
    first: Option<NodeEvent>,
    /// Up to where something is missing.
    to: u64,
    by_kind: BTreeMap<String, u64>,
}

impl Lost {
    fn add(&mut self, event: NodeEvent) {
        self.to = self.to.max(end(&event));
        count(&mut self.by_kind, &event.subject);
        if self
            .first
            .as_ref()
            .is_none_or(|first| event.seq < first.seq)
        {
            self.first = Some(event);
        }
    }

    /// One event where the first of them was.
    fn told(self) -> Option<NodeEvent> {
        let first = self.first?;
        let detail = serde_json::json!({
            "from": first.seq, "to": self.to, "by_kind": self.by_kind,
        });
        Some(NodeEvent {
            subject: Subject {
                kind: kind::AUDIT_LOST.to_owned(),
                detail,
                ..Subject::default()
            },
            ..first
        })
    }
}

/// Up to where something is missing that an event tells of; of any other, its own place.
fn end(event: &NodeEvent) -> u64 {
    match event.subject.detail["to"].as_u64() {
        Some(to) if event.subject.kind == kind::AUDIT_LOST => to.max(event.seq),
        _ => event.seq,
    }
}
