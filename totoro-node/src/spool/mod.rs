//! The audit spool: events wait here, durable and numbered without gaps, until the control plane
//! has them.
//!
//! `(spool id, seq)` names an event for ever: delivering it twice does no harm. The spool takes so
//! many bytes at most; [`full`] says what gives way then.

mod deliver;
mod full;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};
use totoro_api::wire::event::{EventBatch, NodeEvent, Subject, kind};

use crate::store::{META, Store};

pub use deliver::run;
pub(crate) use full::{by_kind, is_sampled};

/// Events by seq.
const EVENTS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("spool");
/// The seqs of those events that are samples and sums.
const SAMPLED: TableDefinition<'static, u64, ()> = TableDefinition::new("spool_sampled");
/// Key in `META`: the spool's id.
const ID: &str = "spool_id";
/// Key in `META`: the seq of the next event.
const NEXT: &str = "spool_next";
/// Key in `META`: the seq of the newest event that tells of a loss.
const LOSS: &str = "spool_loss";
/// Key in `META`: up to which seq the control plane had this spool.
const HAD: &str = "spool_had";
/// Key in `META`: what the events take, bytes.
const BYTES: &str = "spool_bytes";

/// The largest batch. So many of the oldest events may have arrived without our knowing, and never
/// give way.
pub const MAX_BATCH: usize = 500;
/// What the spool may take where no setting says, MiB.
pub const DEFAULT_MIB: u32 = 64;
/// The least that it may be told to take, MiB: some batches.
pub const LEAST_MIB: u32 = 4;

type Meta<'txn> = Table<'txn, &'static str, &'static [u8]>;

/// The spool within a transaction.
struct Tables<'txn> {
    meta: Meta<'txn>,
    events: Table<'txn, u64, &'static [u8]>,
    sampled: Table<'txn, u64, ()>,
    /// What the events take, bytes.
    bytes: u64,
}

impl<'txn> Tables<'txn> {
    fn open(txn: &'txn WriteTransaction) -> Result<Tables<'txn>> {
        let meta = txn.open_table(META.table()).context("open a table")?;
        let bytes = number(&meta, BYTES)?.unwrap_or(0);
        Ok(Tables {
            meta,
            events: txn.open_table(EVENTS).context("open the spool")?,
            sampled: txn.open_table(SAMPLED).context("open the spool")?,
            bytes,
        })
    }

    fn insert(&mut self, event: &NodeEvent) -> Result<()> {
        let value = serde_json::to_vec(event).context("write an event")?;
        self.events
            .insert(event.seq, value.as_slice())
            .context("write an event")?;
        if is_sampled(&event.subject.kind) {
            self.sampled
                .insert(event.seq, ())
                .context("write an event")?;
        }
        self.bytes += value.len() as u64;
        Ok(())
    }

    /// Takes an event out, if it is there.
    fn take(&mut self, seq: u64) -> Result<Option<NodeEvent>> {
        self.sampled.remove(seq).context("drop an event")?;
        let Some(value) = self.events.remove(seq).context("drop an event")? else {
            return Ok(None);
        };
        self.bytes = self.bytes.saturating_sub(value.value().len() as u64);
        parse(seq, value.value()).map(Some)
    }

    fn put_number(&mut self, key: &'static str, value: u64) -> Result<()> {
        let value = serde_json::to_vec(&value).context("write a number")?;
        self.meta
            .insert(key, value.as_slice())
            .with_context(|| format!("write {key}"))?;
        Ok(())
    }

    /// Gives the spool a new name.
    fn rename(&mut self) -> Result<()> {
        let id = serde_json::to_vec(&crate::secret::random_hex()).context("write an id")?;
        self.meta
            .insert(ID, id.as_slice())
            .context("write the spool's id")?;
        self.put_number(HAD, 0)
    }
}

fn number(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &'static str,
) -> Result<Option<u64>> {
    let value = meta.get(key).with_context(|| format!("read {key}"))?;
    let read = |value: &[u8]| serde_json::from_slice(value);
    let value = value.map(|value| read(value.value())).transpose();
    value.with_context(|| format!("read {key}"))
}

/// Creates the spool where there is none.
pub(crate) fn create(txn: &WriteTransaction) -> Result<()> {
    let mut tables = Tables::open(txn)?;
    if number(&tables.meta, BYTES)?.is_none() {
        for entry in tables.events.iter().context("read the spool")? {
            let (_, value) = entry.context("read an event")?;
            tables.bytes += value.value().len() as u64;
        }
        tables.put_number(BYTES, tables.bytes)?;
    }
    if tables
        .meta
        .get(ID)
        .context("read the spool's id")?
        .is_none()
    {
        tables.rename()?;
        tables.put_number(NEXT, 1)?;
    }
    Ok(())
}

/// The seq of the next event, within a transaction; only events change it.
pub(crate) fn next(txn: &WriteTransaction) -> Result<u64> {
    let meta = txn.open_table(META.table()).context("open a table")?;
    Ok(number(&meta, NEXT)?.unwrap_or(1))
}

/// Appends events within a transaction; all together take `max` bytes at most.
pub(crate) fn append(
    txn: &WriteTransaction,
    boot: &str,
    events: &[&(i64, Subject)],
    max: u64,
) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut tables = Tables::open(txn)?;
    let mut seq = number(&tables.meta, NEXT)?.unwrap_or(1);
    for (at_ms, subject) in events {
        let event = NodeEvent {
            seq,
            at_ms: *at_ms,
            boot: boot.to_owned(),
            subject: subject.clone(),
        };
        tables.insert(&event)?;
        if tables.bytes > max {
            full::give_way(&mut tables, max)?;
        }
        seq += 1;
    }
    tables.put_number(NEXT, seq)?;
    tables.put_number(BYTES, tables.bytes)
}

fn parse(seq: u64, value: &[u8]) -> Result<NodeEvent> {
    serde_json::from_slice(value).with_context(|| format!("read event {seq}"))
}

/// The spool's far end: what is to be delivered.
#[derive(Clone, Debug)]
pub struct Spool {
    store: Arc<Store>,
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
    pub const fn of(store: Arc<Store>) -> Spool {
        Spool { store }
    }

    /// The oldest events, at most [`MAX_BATCH`].
    ///
    /// # Errors
    /// The disk.
    pub fn batch(&self) -> Result<EventBatch> {
        self.store.read(|txn| {
            let mut events = Vec::new();
            let table = events_of(txn)?;
            for entry in table.iter().context("read the spool")?.take(MAX_BATCH) {
                let (seq, value) = entry.context("read an event")?;
                events.push(parse(seq.value(), value.value())?);
            }
            let meta = txn.open_table(META.table()).context("open a table")?;
            Ok(EventBatch {
                spool: id(&meta)?,
                after: number(&meta, HAD)?.unwrap_or(0),
                events,
            })
        })
    }

    /// Forgets what the control plane has: everything up to `seq`.
    ///
    /// # Errors
    /// The disk.
    pub fn accepted(&self, seq: u64) -> Result<()> {
        self.store.shrink(|txn| {
            let mut tables = Tables::open(txn)?;
            let mut freed = 0;
            let forget = |_, value: &[u8]| {
                freed += value.len() as u64;
                false
            };
            tables
                .events
                .retain_in(..=seq, forget)
                .context("forget events")?;
            tables
                .sampled
                .retain_in(..=seq, |_, ()| false)
                .context("forget events")?;
            tables.put_number(HAD, seq)?;
            let left = tables.bytes.saturating_sub(freed);
            tables.put_number(BYTES, left)
        })
    }

    /// Goes on under another name, because the control plane misses events of this one that are no
    /// more here (its store was restored). Before what waits comes an event that says so; where it
    /// does already, all stays as it is.
    ///
    /// # Errors
    /// The disk.
    pub fn renew(&self) -> Result<()> {
        self.store.write(|txn| {
            let mut tables = Tables::open(txn)?;
            let first = match tables.events.first().context("read the spool")? {
                Some((seq, value)) => parse(seq.value(), value.value())?,
                None => return Ok(()),
            };
            if !may_renew(&first) {
                return Ok(());
            }
            // What waits may have holes that only an event told of that is gone: this one tells of
            // them all.
            let next = number(&tables.meta, NEXT)?;
            let to = next.context("the spool has no next number")? - 1;
            let none = BTreeMap::<String, u64>::new();
            let lost = NodeEvent {
                seq: first.seq - 1,
                subject: Subject {
                    kind: kind::AUDIT_LOST.to_owned(),
                    // Where the gap begins only the control plane knows.
                    detail: serde_json::json!({
                        "spool": id(&tables.meta)?, "from": 1, "to": to, "by_kind": none,
                    }),
                    ..Subject::default()
                },
                ..first
            };
            tracing::error!(
                to,
                "the control plane misses events that it had; a new spool begins"
            );
            tables.rename()?;
            tables.insert(&lost)?;
            tables.put_number(BYTES, tables.bytes)
        })
    }

    /// How much waits.
    ///
    /// # Errors
    /// The disk.
    pub fn size(&self) -> Result<Size> {
        self.store.read(|txn| {
            let meta = txn.open_table(META.table()).context("open a table")?;
            Ok(Size {
                events: events_of(txn)?.len().context("count the spool")?,
                bytes: number(&meta, BYTES)?.unwrap_or(0),
                max: self.store.spool_max(),
            })
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

fn events_of(txn: &ReadTransaction) -> Result<ReadOnlyTable<u64, &'static [u8]>> {
    txn.open_table(EVENTS).context("open the spool")
}

fn id(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<String> {
    let id = meta.get(ID).context("read the spool's id")?;
    let id = id.context("the spool has no id")?;
    serde_json::from_slice(id.value()).context("read the spool's id")
}
