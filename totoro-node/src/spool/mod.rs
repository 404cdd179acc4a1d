//! The audit spool: events wait here, durable and numbered without gaps, until the control plane
//! has them.
//!
//! `(spool id, seq)` names an event for ever: delivering it twice does no harm. When the spool is
//! full the oldest events give way to one `audit.lost` that says what they were.

mod deliver;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use totoro_api::wire::event::{EventBatch, NodeEvent, Subject, kind};

use crate::store::{META, Store};

pub use deliver::run;

/// Events by seq.
const EVENTS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("spool");
/// Key in `META`: the spool's id.
const ID: &str = "spool_id";
/// Key in `META`: the seq of the next event.
const NEXT: &str = "spool_next";

/// The most events that wait; a few hundred bytes each.
pub const MAX_EVENTS: u64 = 200_000;
/// How many of the oldest give way at once.
const GIVE_WAY: usize = 1000;
/// The largest batch.
pub const MAX_BATCH: usize = 500;

/// Creates the spool where there is none.
pub(crate) fn create(txn: &WriteTransaction) -> Result<()> {
    txn.open_table(EVENTS).context("create the spool")?;
    let mut meta = txn.open_table(META.table()).context("open a table")?;
    if meta.get(ID).context("read the spool's id")?.is_none() {
        name(&mut meta)?;
    }
    Ok(())
}

/// Gives the spool a new name, under which it counts from 1.
fn name(meta: &mut redb::Table<'_, &'static str, &'static [u8]>) -> Result<()> {
    let id = serde_json::to_vec(&crate::secret::random_hex()).context("write an id")?;
    meta.insert(ID, id.as_slice())
        .context("write the spool's id")?;
    meta.insert(NEXT, b"1".as_slice())
        .context("write the spool's seq")?;
    Ok(())
}

/// Appends events within a transaction.
pub(crate) fn append(txn: &WriteTransaction, boot: &str, events: &[(i64, Subject)]) -> Result<()> {
    append_bounded(txn, boot, events, MAX_EVENTS)
}

fn append_bounded(
    txn: &WriteTransaction,
    boot: &str,
    events: &[(i64, Subject)],
    max: u64,
) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let mut meta = txn.open_table(META.table()).context("open a table")?;
    let mut table = txn.open_table(EVENTS).context("open the spool")?;
    let next = meta.get(NEXT).context("read the spool's seq")?;
    let mut seq: u64 = match &next {
        Some(value) => serde_json::from_slice(value.value()).context("read the spool's seq")?,
        None => 1,
    };
    drop(next);
    for (at_ms, subject) in events {
        if table.len().context("count the spool")? >= max {
            give_way(&mut table)?;
        }
        let event = NodeEvent {
            seq,
            at_ms: *at_ms,
            boot: boot.to_owned(),
            subject: subject.clone(),
        };
        let value = serde_json::to_vec(&event).context("write an event")?;
        table
            .insert(seq, value.as_slice())
            .context("write an event")?;
        seq += 1;
    }
    let seq = serde_json::to_vec(&seq).context("write the spool's seq")?;
    meta.insert(NEXT, seq.as_slice())
        .context("write the spool's seq")?;
    Ok(())
}

/// How many events of each kind, those among them that an earlier loss counted.
pub(crate) fn by_kind<'a>(subjects: impl Iterator<Item = &'a Subject>) -> BTreeMap<String, u64> {
    let mut by_kind = BTreeMap::<String, u64>::new();
    for subject in subjects {
        if subject.kind != kind::AUDIT_LOST {
            *by_kind.entry(subject.kind.clone()).or_default() += 1;
            continue;
        }
        let earlier = subject.detail["by_kind"].as_object();
        for (kind, count) in earlier.into_iter().flatten() {
            *by_kind.entry(kind.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
    }
    by_kind
}

/// Replaces the oldest events by one that counts them.
fn give_way(table: &mut redb::Table<'_, u64, &'static [u8]>) -> Result<()> {
    let oldest = read(table, GIVE_WAY)?;
    let (Some(first), Some(last)) = (oldest.first(), oldest.last()) else {
        return Ok(());
    };
    // An earlier loss is told of again within the wider one.
    let from = oldest
        .iter()
        .filter(|event| event.subject.kind == kind::AUDIT_LOST)
        .filter_map(|event| event.subject.detail["from"].as_u64())
        .fold(first.seq, u64::min);
    let by_kind = by_kind(oldest.iter().map(|event| &event.subject));
    let lost = NodeEvent {
        subject: Subject {
            kind: kind::AUDIT_LOST.to_owned(),
            detail: serde_json::json!({ "from": from, "to": last.seq, "by_kind": by_kind }),
            ..Subject::default()
        },
        ..last.clone()
    };
    tracing::error!(
        from,
        to = last.seq,
        "the spool is full; its oldest events are lost"
    );
    for event in &oldest {
        table.remove(event.seq).context("drop an event")?;
    }
    let value = serde_json::to_vec(&lost).context("write an event")?;
    table
        .insert(last.seq, value.as_slice())
        .context("write an event")?;
    Ok(())
}

fn read(table: &impl ReadableTable<u64, &'static [u8]>, most: usize) -> Result<Vec<NodeEvent>> {
    let mut events = Vec::new();
    for entry in table.iter().context("read the spool")?.take(most) {
        let (seq, value) = entry.context("read an event")?;
        let event = serde_json::from_slice(value.value())
            .with_context(|| format!("read event {}", seq.value()))?;
        events.push(event);
    }
    Ok(events)
}

/// The spool's far end: what is to be delivered.
#[derive(Clone, Debug)]
pub struct Spool {
    store: Arc<Store>,
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
            let meta = txn.open_table(META.table()).context("open a table")?;
            let table = txn.open_table(EVENTS).context("open the spool")?;
            Ok(EventBatch {
                spool: id(&meta)?,
                events: read(&table, MAX_BATCH)?,
            })
        })
    }

    /// Forgets what the control plane has: everything up to `seq`.
    ///
    /// # Errors
    /// The disk.
    pub fn accepted(&self, seq: u64) -> Result<()> {
        self.store.write(|txn| {
            let mut table = txn.open_table(EVENTS).context("open the spool")?;
            table
                .retain_in(..=seq, |_, _| false)
                .context("forget events")
        })
    }

    /// Starts anew under another name, because the control plane misses events of this one that
    /// are no more here (its store was restored). What waits follows an event that says so.
    ///
    /// # Errors
    /// The disk.
    pub fn renew(&self) -> Result<()> {
        self.store.write(|txn| {
            let mut meta = txn.open_table(META.table()).context("open a table")?;
            let mut table = txn.open_table(EVENTS).context("open the spool")?;
            let waiting = read(&table, usize::MAX)?;
            let Some(first) = waiting.first() else {
                return Ok(());
            };
            let none = BTreeMap::<String, u64>::new();
            let lost = NodeEvent {
                subject: Subject {
                    kind: kind::AUDIT_LOST.to_owned(),
                    // Where the gap begins only the control plane knows.
                    detail: serde_json::json!({
                        "spool": id(&meta)?, "from": 1, "to": first.seq - 1, "by_kind": none,
                    }),
                    ..Subject::default()
                },
                ..first.clone()
            };
            tracing::error!(
                to = first.seq - 1,
                "the control plane misses events that it had; a new spool begins"
            );
            name(&mut meta)?;
            table.retain(|_, _| false).context("empty the spool")?;
            let mut next = 1u64;
            for event in std::iter::once(lost).chain(waiting) {
                let event = NodeEvent { seq: next, ..event };
                let value = serde_json::to_vec(&event).context("write an event")?;
                table
                    .insert(next, value.as_slice())
                    .context("write an event")?;
                next += 1;
            }
            let next = serde_json::to_vec(&next).context("write the spool's seq")?;
            meta.insert(NEXT, next.as_slice())
                .context("write the spool's seq")?;
            Ok(())
        })
    }

    /// How many events wait.
    ///
    /// # Errors
    /// The disk.
    pub fn depth(&self) -> Result<u64> {
        self.store.read(|txn| {
            let table = txn.open_table(EVENTS).context("open the spool")?;
            table.len().context("count the spool")
        })
    }
}

fn id(meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<String> {
    let id = meta.get(ID).context("read the spool's id")?;
    let id = id.context("the spool has no id")?;
    serde_json::from_slice(id.value()).context("read the spool's id")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Changes;

    fn told(kind: &str) -> Changes {
        let mut changes = Changes::default();
        let subject = Subject {
            kind: kind.to_owned(),
            ..Subject::default()
        };
        changes.tell(7, subject);
        changes
    }

    fn seqs(spool: &Spool) -> Vec<u64> {
        spool
            .batch()
            .unwrap()
            .events
            .iter()
            .map(|event| event.seq)
            .collect()
    }

    #[test]
    fn numbers_run_on_across_deliveries_and_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let spool = Spool::of(Arc::clone(&store));
        for _ in 0..3 {
            store.commit(&told("x")).unwrap();
        }
        assert_eq!(seqs(&spool), [1, 2, 3]);
        assert_eq!(
            seqs(&spool),
            [1, 2, 3],
            "what is not accepted is offered again"
        );
        spool.accepted(2).unwrap();
        let id = spool.batch().unwrap().spool;
        drop((store, spool));

        let store = Arc::new(Store::open(dir.path()).unwrap());
        let spool = Spool::of(Arc::clone(&store));
        assert_eq!(spool.batch().unwrap().spool, id);
        assert_eq!(seqs(&spool), [3]);
        spool.accepted(3).unwrap();
        store.commit(&told("y")).unwrap();
        assert_eq!(seqs(&spool), [4], "an empty spool remembers its place");
        assert_eq!(spool.depth().unwrap(), 1);
    }

    #[test]
    fn a_failed_transaction_leaves_no_number_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let failed: Result<()> = store.write(|txn| {
            append(txn, "boot", &[(1, Subject::default())])?;
            anyhow::bail!("no")
        });
        assert!(failed.is_err());
        store.commit(&told("x")).unwrap();
        assert_eq!(seqs(&Spool::of(store)), [1]);
    }

    #[test]
    fn a_full_spool_says_what_it_lost() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let spool = Spool::of(Arc::clone(&store));
        let many = |from: u64, to: u64| -> Vec<(i64, Subject)> {
            (from..=to)
                .map(|n| {
                    let kind = if n % 2 == 0 { "even" } else { "odd" }.to_owned();
                    (
                        n as i64,
                        Subject {
                            kind,
                            ..Subject::default()
                        },
                    )
                })
                .collect()
        };
        store
            .write(|txn| append_bounded(txn, "b", &many(1, 1200), 1200))
            .unwrap();
        store
            .write(|txn| append_bounded(txn, "b", &many(1201, 1201), 1200))
            .unwrap();
        let first = &spool.batch().unwrap().events[0];
        assert_eq!(
            (first.seq, first.subject.kind.as_str()),
            (1000, kind::AUDIT_LOST)
        );
        assert_eq!(first.subject.detail["from"], 1);
        assert_eq!(first.subject.detail["by_kind"]["even"], 500);
        assert_eq!(spool.depth().unwrap(), 202);

        store
            .write(|txn| append_bounded(txn, "b", &many(1202, 1202), 202))
            .unwrap();
        let first = &spool.batch().unwrap().events[0];
        assert_eq!(
            first.subject.detail["from"], 1,
            "the loss grows, none is forgotten"
        );
        let counted: u64 = ["even", "odd"]
            .iter()
            .map(|kind| first.subject.detail["by_kind"][kind].as_u64().unwrap())
            .sum();
        assert_eq!(counted, first.seq);
    }

    #[test]
    fn a_restored_control_plane_gets_a_new_spool_that_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let spool = Spool::of(Arc::clone(&store));
        for kind in ["a", "b", "c", "d"] {
            store.commit(&told(kind)).unwrap();
        }
        spool.accepted(2).unwrap();
        let before = spool.batch().unwrap();
        spool.renew().unwrap();
        store.commit(&told("e")).unwrap();

        let after = spool.batch().unwrap();
        assert_ne!(after.spool, before.spool);
        assert_eq!(seqs(&spool), [1, 2, 3, 4]);
        let kinds: Vec<&str> = after
            .events
            .iter()
            .map(|event| event.subject.kind.as_str())
            .collect();
        assert_eq!(kinds, [kind::AUDIT_LOST, "c", "d", "e"]);
        let detail = &after.events[0].subject.detail;
        assert_eq!(
            (&detail["spool"], &detail["to"]),
            (&before.spool.into(), &2.into())
        );
    }
}
