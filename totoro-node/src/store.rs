//! What survives a restart: one redb file for sessions, tickets, leases, policy and the spool, so
//! that what happened and the event that tells of it become durable in one transaction.

mod changes;
#[cfg(test)]
mod disk;
mod group;
mod reserve;
mod unsure;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::de::DeserializeOwned;

use crate::spool;

pub use changes::Changes;
pub use group::{Failed, Group, Place};
use reserve::Reserve;
use unsure::Unsure;

/// The database's file in the state's directory.
const STATE: &str = "state.redb";
/// What is kept of the database in memory at most, bytes: records are in memory anyway, decoded. redb
/// holds a tenth of it of what a transaction has written; more goes to the disk before the commit, where
/// there may be no room for it, so the tenth is more than one forgetting of the spool's.
const CACHE: usize = 64 << 20;
/// The file there that a daemon locks.
const LOCK: &str = "lock";
/// Every file that a store makes in its directory.
pub(crate) const FILES: [&str; 4] = [STATE, LOCK, reserve::NAME, reserve::PART];

/// A table of records by text key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Records(&'static str);

impl Records {
    /// The table as the database knows it.
    pub(crate) const fn table(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(self.0)
    }
}

/// Single values: offset, spool id, counters.
pub const META: Records = Records("meta");
/// Tenants by id.
pub const TENANTS: Records = Records("tenants");
/// Sessions by run_id.
pub const SESSIONS: Records = Records("sessions");
/// Tickets by the hex of their hash.
pub const TICKETS: Records = Records("tickets");
/// Leases by `protocol/port`.
pub const LEASES: Records = Records("leases");
/// Reserved and cooling ports by `protocol/port`.
pub const HELD: Records = Records("held");
/// Invites of the applied policy by id.
pub const INVITES: Records = Records("invites");
/// Bans made on this node, by prefix.
pub const BANS: Records = Records("bans");

/// Opens the database, at first and after an error.
type Opener = Box<dyn Fn() -> Result<Database> + Send + Sync>;

/// The database, and the lock on its directory.
pub struct Store {
    /// After an error of the disk redb answers nothing but `PreviousIo`, until it is opened anew:
    /// `None` then.
    db: Mutex<Option<Database>>,
    open: Opener,
    boot: String,
    /// What the spool may take, bytes.
    spool_max: u64,
    reserve: Reserve,
    unsure: Mutex<Unsure>,
    _lock: Flock<File>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Whether a daemon ever kept its state under `dir`.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(STATE).exists()
    }

    /// Opens (or creates) the state under `dir`, for one daemon at a time.
    ///
    /// # Errors
    /// Another daemon has it; it can't be created; it can't be read.
    pub fn open(dir: &Path) -> Result<Store> {
        let path = dir.join(STATE);
        Store::open_by(
            dir,
            Box::new(move || {
                let mut builder = Database::builder();
                builder.set_cache_size(CACHE);
                let opened = builder.create(&path);
                opened.with_context(|| format!("open {}", path.display()))
            }),
        )
    }

    /// The same, with a spool that takes so many bytes at most.
    #[must_use]
    pub fn with_spool(self, max: u64) -> Store {
        Store {
            spool_max: max,
            ..self
        }
    }

    /// What the spool may take, bytes.
    #[must_use]
    pub const fn spool_max(&self) -> u64 {
        self.spool_max
    }

    fn open_by(dir: &Path, open: Opener) -> Result<Store> {
        let shown = dir.display();
        std::fs::create_dir_all(dir).with_context(|| format!("create {shown}"))?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .with_context(|| format!("close {shown} to others"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(dir.join(LOCK))
            .with_context(|| format!("create {shown}/lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, why)| {
            anyhow::anyhow!("{shown} is in use by another totoro-node ({why}); stop it first")
        })?;
        let store = Store {
            db: Mutex::new(None),
            open,
            boot: crate::machine::boot_id(),
            spool_max: u64::from(spool::DEFAULT_MIB) << 20,
            reserve: Reserve::under(dir),
            unsure: Mutex::default(),
            _lock: lock,
        };
        store.shrink(|txn| {
            for records in [
                META, TENANTS, SESSIONS, TICKETS, LEASES, HELD, INVITES, BANS,
            ] {
                txn.open_table(records.table()).context("create a table")?;
            }
            spool::create(txn)
        })?;
        Ok(store)
    }

    /// Works on the open database, and has it opened anew next time when that fails.
    fn on_db<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let mut slot = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let db = match slot.take() {
            Some(db) => db,
            None => (self.open)()?,
        };
        let outcome = work(&db);
        if outcome.is_ok() {
            *slot = Some(db);
        }
        outcome
    }

    /// Makes changes durable, all or none.
    ///
    /// # Errors
    /// The disk; then nothing of them holds.
    pub fn commit(&self, changes: &Changes) -> Result<()> {
        self.commit_all([changes])
    }

    /// The same for many, as if one came after the other. What failed is to be in what is committed
    /// next, where it still matters: events of it that are durable all the same are told once.
    ///
    /// # Errors
    /// The disk; then nothing of any holds.
    pub fn commit_all<'a>(&self, all: impl IntoIterator<Item = &'a Changes>) -> Result<()> {
        // Of two writes of one record only the later matters.
        let mut records = BTreeMap::<&(Records, String), &Option<Vec<u8>>>::new();
        let mut events = Vec::new();
        for changes in all {
            records.extend(changes.records.iter());
            events.extend(&changes.events);
        }
        if records.is_empty() && events.is_empty() {
            return Ok(());
        }
        let mut unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(|txn| {
            let mut records = records.iter().peekable();
            while let Some(((of, _), _)) = records.peek() {
                let of = *of;
                let mut table = txn.open_table(of.table()).context("open a table")?;
                while let Some(((_, key), value)) = records.next_if(|((next, _), _)| *next == of) {
                    match value {
                        Some(value) => table.insert(key.as_str(), value.as_slice()),
                        None => table.remove(key.as_str()),
                    }
                    .context("write a record")?;
                }
            }
            if events.is_empty() {
                return Ok(());
            }
            let fresh = unsure.fresh(spool::next(txn)?, &events);
            spool::append(txn, &self.boot, &fresh, self.spool_max)
        })?;
        *unsure = Unsure::default();
        Ok(())
    }

    /// One transaction: durable when it returns.
    ///
    /// # Errors
    /// What `work` says, or the disk.
    pub fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        self.on_db(|db| {
            let txn = db.begin_write().context("begin a transaction")?;
            let result = work(&txn)?;
            txn.commit().context("commit")?;
            Ok(result)
        })
    }

    /// The same for what makes room in the end: on a full disk it has the room that is kept for it.
    ///
    /// # Errors
    /// What `work` says, or the disk.
    pub fn shrink<T>(&self, work: impl Fn(&WriteTransaction) -> Result<T>) -> Result<T> {
        let done = match self.write(&work) {
            Err(_) if self.reserve.give() => self.write(&work),
            done => done,
        };
        if done.is_ok() {
            self.reserve.keep();
        }
        done
    }

    /// Reads what is durable.
    ///
    /// # Errors
    /// What `work` says, or the disk.
    pub fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T>) -> Result<T> {
        self.on_db(|db| work(&db.begin_read().context("begin to read")?))
    }

    /// All records of a table.
    ///
    /// # Errors
    /// The disk, or a record that can't be read.
    pub fn all<T: DeserializeOwned>(&self, records: Records) -> Result<Vec<(String, T)>> {
        self.read(|txn| {
            let table = txn.open_table(records.table()).context("open a table")?;
            let mut all = Vec::new();
            for entry in table.iter().context("read a table")? {
                let (key, value) = entry.context("read a record")?;
                let key = key.value().to_owned();
                let value = serde_json::from_slice(value.value())
                    .with_context(|| format!("read the record {key:?}"))?;
                all.push((key, value));
            }
            Ok(all)
        })
    }

    /// One record.
    ///
    /// # Errors
    /// The disk, or a record that can't be read.
    pub fn get<T: DeserializeOwned>(&self, records: Records, key: &str) -> Result<Option<T>> {
        self.read(|txn| {
            let table = txn.open_table(records.table()).context("open a table")?;
            let value = table.get(key).context("read a record")?;
            value
                .map(|value| serde_json::from_slice(value.value()))
                .transpose()
                .with_context(|| format!("read the record {key:?}"))
        })
    }
}

#[cfg(test)]
pub(crate) use disk::flaky;

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

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

    #[test]
    fn a_disk_that_failed_once_is_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let (store, disk) = flaky(dir.path());
        let put = |value: u64| {
            let mut changes = Changes::default();
            changes.put(META, "a", &value);
            store.commit(&changes)
        };
        put(1).unwrap();
        disk.store(true, Ordering::Relaxed);
        assert!(put(2).is_err());
        assert!(put(3).is_err(), "and as long as it fails");
        disk.store(false, Ordering::Relaxed);
        assert_eq!(store.get::<u64>(META, "a").unwrap(), Some(1), "all or none");
        put(4).unwrap();
        assert_eq!(store.get::<u64>(META, "a").unwrap(), Some(4));
    }
}
