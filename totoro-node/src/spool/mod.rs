//! The audit spool: events wait here, durable and numbered without gaps, until the control plane
//! has them.
//!
//! `(spool id, seq)` names an event for ever: delivering it twice does no harm. The spool takes so
//! many bytes at most; [`full`] says what gives way then.

mod deliver;
mod event;
mod full;
mod waiting;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use totoro_api::wire::event::{EventBatch, NodeEvent, Subject, kind};

use crate::store::{Kind, Log, META, Ops, Reader, Store};
use full::Plan;
use waiting::{ID, NEXT};

pub use deliver::run;
pub use event::Event;
pub(crate) use full::{by_kind, is_sampled};
pub(crate) use waiting::{Entry, HAD, Waiting};

/// The largest batch. So many of the oldest events may have arrived without our knowing, and never
/// give way.
pub const MAX_BATCH: usize = 500;
/// What the spool may take where no setting says, MiB.
pub const DEFAULT_MIB: u32 = 64;
/// The least that it may be told to take, MiB: some batches.
pub const LEAST_MIB: u32 = 4;

/// Creates the spool where there is none.
pub(crate) fn create(log: &mut Log) -> Result<()> {
    if !log.waiting().id.is_empty() {
        return Ok(());
    }
    let mut ops = Ops::default();
    rename(&mut ops)?;
    put_number(&mut ops, NEXT, 1);
    log.commit(&ops)
}

/// Appends events to what is to be committed; all together take `max` bytes at most.
pub(crate) fn append(
    log: &Log,
    ops: &mut Ops,
    boot: &str,
    events: &[&Event],
    max: u64,
) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut plan = Plan::new(log, max);
    for event in events {
        plan.append(boot, event)?;
    }
    plan.finish(ops);
    Ok(())
}

/// Gives the spool a new name.
fn rename(ops: &mut Ops) -> Result<()> {
    let id = serde_json::to_vec(&crate::secret::random_hex()).context("write an id")?;
    ops.push(Kind::Put, META.number, ID.as_bytes(), &id);
    put_number(ops, HAD, 0);
    Ok(())
}

fn put_number(ops: &mut Ops, key: &str, value: u64) {
    let value = value.to_string();
    ops.push(Kind::Put, META.number, key.as_bytes(), value.as_bytes());
}

fn put_event(ops: &mut Ops, seq: u64, sampled: bool, value: &[u8]) {
    ops.push(Kind::Event, u8::from(sampled), &seq.to_le_bytes(), value);
}

fn read(reader: &mut Reader<'_>, entry: &Entry) -> Result<NodeEvent> {
    parse(entry.seq, reader.op(entry.spot)?.value)
}

/// The oldest events that wait: a batch.
fn first(log: &Log) -> Vec<Entry> {
    log.waiting().from(0).take(MAX_BATCH).copied().collect()
}

/// What was written of these events, with their seqs.
fn values(reader: &mut Reader<'_>, entries: &[Entry]) -> Result<Vec<(u64, Vec<u8>)>> {
    let value = |entry: &Entry| {
        let op = reader.op(entry.spot)?;
        let there = op.kind == Kind::Event && op.seq() == Some(entry.seq);
        anyhow::ensure!(there, "event {} is not where it was", entry.seq);
        Ok((entry.seq, op.value.to_vec()))
    };
    entries.iter().map(value).collect()
}

fn parse(seq: u64, value: &[u8]) -> Result<NodeEvent> {
    serde_json::from_slice(value).with_context(|| format!("read event {seq}"))
}

/// The spool's far end: what is to be delivered.
#[derive(Clone, Debug)]
pub struct Spool {
    store: Arc<Store>,
    /// Its name and the next event's seq as they were found.
    found: (String, u64),
}

/// Why a spool goes on under another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The control plane misses events that are no more here: its store was restored.
    Missed,
    /// The control plane has events that this spool has not written yet: the state here was put back.
    Ahead,
}

/// The oldest events, with their seqs.
struct Oldest {
    spool: String,
    after: u64,
    events: Vec<(u64, Vec<u8>)>,
}

/// How much waits in a spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Events.
    pub events: u64,
    /// What they take, bytes.
    pub bytes: u64,
    /// What they may take, bytes.
    pub max: u64,
}

impl Spool {
    /// The spool of a store.
    #[must_use]
    pub fn of(store: Arc<Store>) -> Spool {
        let found = store.on_log(|log| {
            let waiting = log.waiting();
            (waiting.id.clone(), waiting.next)
        });
        Spool { store, found }
    }

    /// The oldest events, at most [`MAX_BATCH`], as the control plane reads what is delivered.
    ///
    /// # Errors
    /// The disk.
    pub fn batch(&self) -> Result<EventBatch> {
        serde_json::from_slice(&self.oldest()?.batch()).context("read a batch")
    }

    /// The same as they were written.
    fn oldest(&self) -> Result<Oldest> {
        let (mut oldest, entries, disk) = self.store.on_log(|log| {
            // What gives way in a full spool spares the oldest batch alone, which may have arrived unheard
            // of. If a crash brought back what came before it, more than that would have arrived: what
            // tells of the loss could stand where the control plane has another event, and be taken
            // for one that came twice.
            log.settle()?;
            let waiting = log.waiting();
            let oldest = Oldest {
                spool: waiting.id.clone(),
                after: waiting.had,
                events: Vec::new(),
            };
            anyhow::Ok((oldest, first(log), log.disk()))
        })?;
        // Without the log, which is to be written to meanwhile. What is copied to another place then may
        // be gone from this one.
        oldest.events = match values(&mut Reader::new(&disk), &entries) {
            Ok(events) => events,
            Err(_) => self
                .store
                .on_log(|log| values(&mut log.reader(), &first(log)))?,
        };
        Ok(oldest)
    }

    /// Forgets what the control plane has: everything up to `seq`. On the disk it is forgotten with what is
    /// written next, before the next batch at the latest; what a crash brings back is delivered again.
    ///
    /// # Errors
    /// None yet.
    pub fn accepted(&self, seq: u64) -> Result<()> {
        self.store.on_log(|log| log.forget(seq));
        Ok(())
    }

    /// Whether the control plane, which has events up to `seq` of the spool of that name, has some that it can't have
    /// from here: the seqs that come next are taken, and what gets them would pass for what came before.
    fn is_behind(&self, name: &str, seq: u64) -> bool {
        self.store.on_log(|log| {
            let waiting = log.waiting();
            waiting.id == name && seq >= waiting.next
        })
    }

    /// Goes on under another name. Before what waits comes an event that says so; where it does already, all stays
    /// as it is.
    ///
    /// # Errors
    /// The disk.
    fn renew(&self, why: Why) -> Result<()> {
        self.store.on_log(|log| {
            let waiting = log.waiting();
            let Some(first) = waiting.from(0).next() else {
                return Ok(());
            };
            let first = read(&mut log.reader(), first)?;
            let is_told = !may_renew(&first);
            if is_told && why == Why::Missed {
                return Ok(());
            }
            // What waits may have holes that only an event told of that is gone: this one tells of
            // them all.
            let to = waiting.next - 1;
            let none = BTreeMap::<String, u64>::new();
            let lost = NodeEvent {
                seq: first.seq.saturating_sub(1),
                subject: Subject {
                    kind: kind::AUDIT_LOST.to_owned(),
                    // Where the gap begins only the control plane knows.
                    detail: serde_json::json!({
                        "spool": waiting.id, "from": 1, "to": to, "by_kind": none,
                    }),
                    ..Subject::default()
                },
                ..first
            };
            match why {
                Why::Missed => tracing::error!(
                    to,
                    "the control plane misses events that it had; a new spool begins"
                ),
                Why::Ahead => tracing::error!(
                    to,
                    "the control plane has later events of this spool: the state was put back; a new spool begins, \
                     and events may be told twice"
                ),
            }
            let mut ops = Ops::default();
            rename(&mut ops)?;
            if !is_told {
                let value = serde_json::to_vec(&lost).context("write an event")?;
                put_event(&mut ops, lost.seq, false, &value);
            }
            log.commit(&ops)
        })
    }

    /// How much waits; does not wait for the disk.
    ///
    /// # Errors
    /// None yet.
    pub fn size(&self) -> Result<Size> {
        let [events, bytes] = self.store.waiting();
        Ok(Size {
            events,
            bytes,
            max: self.store.spool_max(),
        })
    }
}

/// Whether a new name can help a spool that begins with this event: where nothing can be missing
/// before it, or it tells already of all that may be, a conflict is about something else.
fn may_renew(first: &NodeEvent) -> bool {
    // Only a renewal names the spool before; a full spool's loss does not.
    let subject = &first.subject;
    let renewed = subject.kind == kind::AUDIT_LOST && subject.detail.get("spool").is_some();
    first.seq > 1 && !renewed
}
