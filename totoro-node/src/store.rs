//! What survives a restart: one redb file for sessions, tickets, leases, policy and the spool, so
//! that what happened and the event that tells of it become durable in one transaction.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use totoro_api::wire::event::Subject;

use crate::spool;

/// A table of records by text key.
pub type Records = TableDefinition<'static, &'static str, &'static [u8]>;

/// Single values: offset, spool id, counters.
pub const META: Records = TableDefinition::new("meta");
/// Tenants by id.
pub const TENANTS: Records = TableDefinition::new("tenants");
/// Sessions by run_id.
pub const SESSIONS: Records = TableDefinition::new("sessions");
/// Tickets by the hex of their hash.
pub const TICKETS: Records = TableDefinition::new("tickets");
/// Leases by `protocol/port`.
pub const LEASES: Records = TableDefinition::new("leases");
/// Reserved and cooling ports by `protocol/port`.
pub const HELD: Records = TableDefinition::new("held");
/// Bans made on this node, by prefix.
pub const BANS: Records = TableDefinition::new("bans");

/// Changes that become durable together, and the events that tell of them.
#[derive(Default)]
pub struct Changes {
    records: Vec<(Records, String, Option<Vec<u8>>)>,
    events: Vec<(i64, Subject)>,
}

impl Changes {
    /// Writes a record.
    ///
    /// # Panics
    /// Never: records are structs with text keys, which JSON has room for.
    pub fn put(&mut self, table: Records, key: impl Into<String>, value: &impl Serialize) {
        let value = serde_json::to_vec(value).expect("records have text keys");
        self.records.push((table, key.into(), Some(value)));
    }

    /// Removes a record.
    pub fn remove(&mut self, table: Records, key: impl Into<String>) {
        self.records.push((table, key.into(), None));
    }

    /// Tells of something that happened at `at_ms`.
    pub fn tell(&mut self, at_ms: i64, subject: Subject) {
        self.events.push((at_ms, subject));
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.events.is_empty()
    }

    /// Whether there is something to deliver.
    #[must_use]
    pub fn tells(&self) -> bool {
        !self.events.is_empty()
    }

    /// Puts later changes behind these.
    pub fn append(&mut self, later: Changes) {
        self.records.extend(later.records);
        self.events.extend(later.events);
    }
}

/// The open database, and the lock on its directory.
#[derive(Debug)]
pub struct Store {
    db: Database,
    boot: String,
    _lock: Flock<File>,
}

impl Store {
    /// Whether a daemon ever kept its state under `dir`.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join("state.redb").exists()
    }

    /// Opens (or creates) the state under `dir`, for one daemon at a time.
    ///
    /// # Errors
    /// Another daemon has it; it can't be created; it can't be read.
    pub fn open(dir: &Path) -> Result<Store> {
        let shown = dir.display();
        std::fs::create_dir_all(dir).with_context(|| format!("create {shown}"))?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .with_context(|| format!("close {shown} to others"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join("lock"))
            .with_context(|| format!("create {shown}/lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, why)| {
            anyhow::anyhow!("{shown} is in use by another totoro-node ({why}); stop it first")
        })?;
        let path = dir.join("state.redb");
        let db = Database::create(&path).with_context(|| format!("open {}", path.display()))?;
        let store = Store {
            db,
            boot: crate::machine::boot_id(),
            _lock: lock,
        };
        let txn = store.db.begin_write().context("begin a transaction")?;
        for table in [META, TENANTS, SESSIONS, TICKETS, LEASES, HELD, BANS] {
            txn.open_table(table).context("create a table")?;
        }
        spool::create(&txn)?;
        txn.commit().context("commit the tables")?;
        Ok(store)
    }

    /// Makes changes durable, all or none.
    ///
    /// # Errors
    /// The disk; then nothing of them holds.
    pub fn commit(&self, changes: &Changes) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            for (table, key, value) in &changes.records {
                let mut table = txn.open_table(*table).context("open a table")?;
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_slice()),
                    None => table.remove(key.as_str()),
                }
                .context("write a record")?;
            }
            spool::append(txn, &self.boot, &changes.events)
        })
    }

    /// One transaction: durable when it returns.
    ///
    /// # Errors
    /// What `work` says, or the disk.
    pub fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        let txn = self.db.begin_write().context("begin a transaction")?;
        let result = work(&txn)?;
        txn.commit().context("commit")?;
        Ok(result)
    }

    /// All records of a table.
    ///
    /// # Errors
    /// The disk, or a record that can't be read.
    pub fn all<T: DeserializeOwned>(&self, table: Records) -> Result<Vec<(String, T)>> {
        let txn = self.db.begin_read().context("begin to read")?;
        let table = txn.open_table(table).context("open a table")?;
        let mut all = Vec::new();
        for entry in table.iter().context("read a table")? {
            let (key, value) = entry.context("read a record")?;
            let key = key.value().to_owned();
            let value = serde_json::from_slice(value.value())
                .with_context(|| format!("read the record {key:?}"))?;
            all.push((key, value));
        }
        Ok(all)
    }

    /// One record.
    ///
    /// # Errors
    /// The disk, or a record that can't be read.
    pub fn get<T: DeserializeOwned>(&self, table: Records, key: &str) -> Result<Option<T>> {
        let txn = self.db.begin_read().context("begin to read")?;
        let table = txn.open_table(table).context("open a table")?;
        let value = table.get(key).context("read a record")?;
        value
            .map(|value| serde_json::from_slice(value.value()))
            .transpose()
            .with_context(|| format!("read the record {key:?}"))
    }

    /// The database, to read.
    pub(crate) const fn db(&self) -> &Database {
        &self.db
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_is_there_again_and_one_daemon_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut changes = Changes::default();
        changes.put(META, "a", &1u64);
        changes.put(META, "b", &2u64);
        store.commit(&changes).unwrap();
        let mut changes = Changes::default();
        changes.remove(META, "a");
        store.commit(&changes).unwrap();
        let second = Store::open(dir.path()).unwrap_err().to_string();
        assert!(second.contains("in use"), "{second}");

        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.get::<u64>(META, "a").unwrap(), None);
        assert_eq!(store.get::<u64>(META, "b").unwrap(), Some(2));
    }
}
