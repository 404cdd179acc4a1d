//! What survives a restart: sessions, tickets, leases, policy and the spool, in one log, so that what
//! happened and the event that tells of it become durable in one write.

mod changes;
mod group;
mod left;
mod log;
#[cfg(test)]
mod spool_tests;
mod take_over;
#[cfg(test)]
mod tests;
mod whose;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;

use crate::spool;

pub use changes::Changes;
pub use group::{Failed, Group, Place};
pub use left::{Get, Left};
#[doc(hidden)]
pub use log::fuzz;
pub(crate) use log::{Kind, Log, OP, Ops, Reader, Spot};
pub use whose::is_of;

/// What a start makes that finds nothing, bytes: the log's first file, and as much that is kept for a full disk.
pub(crate) const BEGINS_WITH: u64 = 2 * (log::SIZES.file + log::SIZES.slack);

/// What a log comes to whose spool is full, bytes: up to twice what lives in it.
pub(crate) fn grows_to(spool: u64) -> u64 {
    log::SIZES.least.max(2 * spool)
}

/// The file in the state's directory that a daemon locks.
const LOCK: &str = "lock";

/// A table of records by text key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Records {
    /// What names it in the log; never given to another.
    pub(crate) number: u8,
    /// What named it in the database before.
    name: &'static str,
}

const fn records(number: u8, name: &'static str) -> Records {
    Records { number, name }
}

/// Single values: offset, spool id, counters.
pub const META: Records = records(0, "meta");
/// Tenants by id.
pub const TENANTS: Records = records(1, "tenants");
/// Sessions by run_id.
pub const SESSIONS: Records = records(2, "sessions");
/// Tickets by the hex of their hash.
pub const TICKETS: Records = records(3, "tickets");
/// Leases by `protocol/port`.
pub const LEASES: Records = records(4, "leases");
/// Reserved and cooling ports by `protocol/port`.
pub const HELD: Records = records(5, "held");
/// Invites of the applied policy by id.
pub const INVITES: Records = records(6, "invites");
/// Bans made on this node, by prefix.
pub const BANS: Records = records(7, "bans");

/// The log, and the lock on its directory.
pub struct Store {
    log: Mutex<Log>,
    boot: String,
    /// What the spool may take, bytes.
    spool_max: u64,
    /// How many events wait, and their bytes: known while the log is written.
    waiting: [AtomicU64; 2],
    _lock: Flock<File>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// Every file that a store has made in its directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = log::files(dir);
    files.extend([LOCK, take_over::STATE, take_over::OLD].map(|name| dir.join(name)));
    files
}

impl Store {
    /// Opens (or creates) the state under `dir`, for one daemon at a time.
    ///
    /// # Errors
    /// Another daemon has it; it can't be created; it is damaged, or of a later version, and then it
    /// is left as it is.
    pub fn open(dir: &Path) -> Result<Store> {
        Store::open_by(dir, |dir| Log::open(dir, log::SIZES))
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

    fn open_by(dir: &Path, open: impl Fn(&Path) -> Result<Log>) -> Result<Store> {
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
        let mut log = match take_over::run(dir, &open)? {
            Some(log) => log,
            None => open(dir)?,
        };
        spool::create(&mut log)?;
        let store = Store {
            log: Mutex::new(log),
            boot: crate::machine::boot_id(),
            spool_max: u64::from(spool::DEFAULT_MIB) << 20,
            waiting: [const { AtomicU64::new(0) }; 2],
            _lock: lock,
        };
        store.on_log(|_| ());
        Ok(store)
    }

    /// Works on the log.
    pub(crate) fn on_log<T>(&self, work: impl FnOnce(&mut Log) -> T) -> T {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut log);
        let waiting = log.waiting();
        let is = [waiting.len() as u64, waiting.bytes()];
        for (known, is) in self.waiting.iter().zip(is) {
            known.store(is, Ordering::Relaxed);
        }
        done
    }

    /// How many events wait in the spool, and what they take, bytes.
    pub(crate) fn waiting(&self) -> [u64; 2] {
        [0, 1].map(|of| self.waiting[of].load(Ordering::Relaxed))
    }

    /// Makes changes durable, all or none.
    ///
    /// # Errors
    /// The disk; then nothing of them holds.
    pub fn commit(&self, changes: &Changes) -> Result<()> {
        self.commit_all([changes])
    }

    /// The same for many, as if one came after the other. Where there are none, what was delivered is
    /// forgotten on the disk all the same.
    ///
    /// # Errors
    /// The disk; then nothing of any holds.
    pub fn commit_all<'a>(&self, all: impl IntoIterator<Item = &'a Changes>) -> Result<()> {
        let mut events = Vec::new();
        let all = all.into_iter().map(|changes| {
            events.extend(&changes.events);
            &changes.records
        });
        let mut ops = changes::latest(all);
        if ops.bytes().is_empty() && events.is_empty() {
            return self.on_log(Log::settle);
        }
        self.on_log(|log| {
            spool::append(log, &mut ops, &self.boot, &events, self.spool_max)?;
            log.commit(&ops)
        })
    }

    /// All records of a table, in the order of their keys.
    ///
    /// # Errors
    /// The disk, or a record that can't be read.
    pub fn all<T: DeserializeOwned>(&self, records: Records) -> Result<Vec<(String, T)>> {
        let mut all = Vec::new();
        self.each(records, |key, value| all.push((key, value)))?;
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Ok(all)
    }

    /// Each record of a table, as they lie. `then` must not use the store.
    ///
    /// # Errors
    /// The disk, or a record that can't be read; earlier ones were given.
    pub fn each<T: DeserializeOwned>(
        &self,
        records: Records,
        mut then: impl FnMut(String, T),
    ) -> Result<()> {
        self.on_log(|log| {
            let spots = log.all(records.number);
            let mut reader = log.reader();
            for spot in spots {
                let (key, value) = read(&mut reader, spot)?;
                then(key, value);
            }
            Ok(())
        })
    }

    /// One record.
    ///
    /// # Errors
    /// The disk, or a record that can't be read.
    pub fn get<T: DeserializeOwned>(&self, records: Records, key: &str) -> Result<Option<T>> {
        self.on_log(|log| {
            let spot = log.find(records.number, key);
            let read = |spot| Ok(read(&mut log.reader(), spot)?.1);
            spot.map(read).transpose()
        })
    }
}

fn read<T: DeserializeOwned>(reader: &mut Reader<'_>, spot: Spot) -> Result<(String, T)> {
    let op = reader.op(spot)?;
    let key = String::from_utf8_lossy(op.key).into_owned();
    let value = serde_json::from_slice(op.value);
    let value = value.with_context(|| format!("read the record {key:?}"))?;
    Ok((key, value))
}

#[cfg(test)]
pub(crate) use tests::flaky;
