//! A state that an earlier version kept in redb: taken over once.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use redb::{Database, ReadOnlyTable, ReadTransaction, TableDefinition, TableError};
use serde::Deserialize;

use super::log::{self, Kind, Log, Ops};
use super::{BANS, HELD, INVITES, LEASES, META, SESSIONS, TENANTS, TICKETS};
use crate::spool::is_sampled;

/// The file.
pub(super) const STATE: &str = "state.redb";
/// Its name once it is taken over.
pub(super) const OLD: &str = "state.redb.old";
/// Events by seq.
const EVENTS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("spool");
/// Key in `META`: what the log knows by itself.
const BYTES: &str = "spool_bytes";
/// What is written at once, bytes.
const PART: usize = 1 << 20;

/// What a sample is known by.
#[derive(Deserialize)]
struct Event {
    kind: String,
}

/// Writes a log of what is in such a file, if there is one; a log that is there already was not
/// finished, or is older than what an earlier version that was put back has written since.
pub(super) fn run(dir: &Path, open: impl Fn(&Path) -> Result<Log>) -> Result<Option<Log>> {
    let path = dir.join(STATE);
    if !path.exists() {
        return Ok(None);
    }
    let mut builder = Database::builder();
    builder.set_cache_size(PART);
    let opened = builder.open(&path);
    let shown = path.display();
    let db = opened.with_context(|| format!("open {shown}"))?;
    for file in log::files(dir).into_iter().filter(|file| file.exists()) {
        let gone = fs::remove_file(&file);
        gone.with_context(|| format!("remove {}", file.display()))?;
    }
    let mut log = open(dir)?;
    let copied = copy(&db, &mut log);
    let count = copied.with_context(|| format!("take over {shown}"))?;
    drop(db);
    fs::rename(&path, dir.join(OLD)).with_context(|| format!("rename {shown}"))?;
    let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("sync {}", dir.display()))?;
    tracing::info!(
        count,
        kept = OLD,
        "the state of an earlier version is taken over; this version never reads that file again"
    );
    Ok(Some(log))
}

/// Copies all records and events; how many.
fn copy(db: &Database, log: &mut Log) -> Result<usize> {
    use redb::ReadableDatabase as _;
    let txn = db.begin_read().context("begin to read")?;
    let (mut ops, mut count) = (Ops::default(), 0);
    for records in [
        META, TENANTS, SESSIONS, TICKETS, LEASES, HELD, INVITES, BANS,
    ] {
        let table = TableDefinition::<&str, &[u8]>::new(records.name);
        let Some(table) = table_of(&txn, table)? else {
            continue;
        };
        for entry in table.range::<&str>(..).context("read a table")? {
            let (key, value) = entry.context("read a record")?;
            if (records, key.value()) == (META, BYTES) {
                continue;
            }
            let key = key.value().as_bytes();
            ops.push(Kind::Put, records.number, key, value.value());
            count += 1;
            write(log, &mut ops, PART)?;
        }
    }
    if let Some(events) = table_of(&txn, EVENTS)? {
        for entry in events.range::<u64>(..).context("read the spool")? {
            let (seq, value) = entry.context("read an event")?;
            let (seq, value) = (seq.value(), value.value());
            let event = serde_json::from_slice::<Event>(value);
            let event = event.with_context(|| format!("read event {seq}"))?;
            let sampled = u8::from(is_sampled(&event.kind));
            ops.push(Kind::Event, sampled, &seq.to_le_bytes(), value);
            count += 1;
            write(log, &mut ops, PART)?;
        }
    }
    write(log, &mut ops, 0)?;
    Ok(count)
}

fn write(log: &mut Log, ops: &mut Ops, least: usize) -> Result<()> {
    if ops.bytes().len() > least {
        log.commit(ops)?;
        *ops = Ops::default();
    }
    Ok(())
}

fn table_of<K: redb::Key + 'static, V: redb::Value + 'static>(
    txn: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<Option<ReadOnlyTable<K, V>>> {
    match txn.open_table(table) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error).context("open a table"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use totoro_api::wire::event::{NodeEvent, Subject, kind};

    use super::*;
    use crate::spool::Spool;
    use crate::store::{Changes, Store};

    /// What the version before this one wrote.
    fn write(dir: &Path) {
        let db = Database::create(dir.join(STATE)).unwrap();
        let txn = db.begin_write().unwrap();
        let table = |name| TableDefinition::<&str, &[u8]>::new(name);
        let put = |name, key: &str, value: &str| {
            let mut table = txn.open_table(table(name)).unwrap();
            table.insert(key, value.as_bytes()).unwrap();
        };
        let numbers = [("next", "8"), ("loss", "0"), ("had", "4"), ("bytes", "9")];
        for (key, value) in numbers {
            put("meta", &format!("spool_{key}"), value);
        }
        put("meta", "spool_id", "\"abc\"");
        put("meta", "policy", "[1]");
        for port in 0..3000 {
            put("leases", &format!("tcp/{port}"), "{\"of\":\"one\"}");
        }
        put("bans", "192.0.2.0/24", "2");
        let mut events = txn.open_table(EVENTS).unwrap();
        for (seq, of) in [(5, kind::SESSION_OPENED), (7, kind::CONN_CLOSED)] {
            let event = NodeEvent {
                seq,
                at_ms: 1,
                boot: "b".to_owned(),
                subject: Subject {
                    kind: of.to_owned(),
                    ..Subject::default()
                },
            };
            let value = serde_json::to_vec(&event).unwrap();
            events.insert(seq, value.as_slice()).unwrap();
        }
        drop(events);
        txn.commit().unwrap();
    }

    fn check(dir: &Path) {
        let store = Arc::new(Store::open(dir).unwrap());
        assert_eq!(store.all::<serde_json::Value>(LEASES).unwrap().len(), 3000);
        assert_eq!(store.get::<u32>(BANS, "192.0.2.0/24").unwrap(), Some(2));
        assert_eq!(store.get::<[u32; 1]>(META, "policy").unwrap(), Some([1]));
        let mut changes = Changes::default();
        changes.tell(2, &Subject::default());
        store.commit(&changes).unwrap();
        let batch = Spool::of(Arc::clone(&store)).batch().unwrap();
        let seqs: Vec<u64> = batch.events.iter().map(|event| event.seq).collect();
        assert_eq!((batch.spool.as_str(), batch.after), ("abc", 4));
        assert_eq!(seqs, [5, 7, 8]);
        assert!(!dir.join(STATE).exists() && dir.join(OLD).exists());
    }

    #[test]
    fn a_state_of_redb_is_taken_over_once() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        check(dir.path());
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.all::<serde_json::Value>(LEASES).unwrap().len(), 3000);
        assert_eq!(store.waiting()[0], 3, "and is gone on with");
    }

    #[test]
    fn what_was_begun_and_not_finished_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        // A log that was not finished, or that an earlier version was put back over.
        let mut log = Log::open(dir.path(), log::SIZES).unwrap();
        let mut ops = Ops::default();
        ops.push(Kind::Put, LEASES.number, b"tcp/9999", b"{}");
        log.commit(&ops).unwrap();
        drop(log);
        check(dir.path());
    }

    #[test]
    fn what_cannot_be_read_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(STATE), "nothing of redb's").unwrap();
        let error = Store::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(STATE), "{error}");
        let there = fs::read_dir(dir.path()).unwrap().flatten();
        let names: Vec<_> = there.map(|entry| entry.file_name()).collect();
        assert!(
            names.iter().all(|name| name == STATE || name == "lock"),
            "{names:?}"
        );
    }
}
