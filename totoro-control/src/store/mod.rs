//! The durable state: a narrow ordered key/value store.
//!
//! Everything that must survive goes through [`Store::commit`]: preconditions and operations in,
//! a revision out once they are durable. The shape fits sled (the one here), PostgreSQL (a
//! key/value table with a revision under a single-row lock, LISTEN/NOTIFY as the wake-up hint) and
//! etcd. Reads are from memory: a remote backend keeps a replica.
//!
//! Reads see a commit as soon as it is applied, which is up to some milliseconds before it is
//! durable. The log is sequential, so whoever reads something and then has a commit of their own
//! acknowledged, be it one without operations, knows that what they read is durable too.

mod checkpoint;
pub mod dump;
mod examine;
#[doc(hidden)]
pub mod fuzz;
mod ground;
mod load;
mod meter;
mod migrate;
mod record;
mod seal;
mod sled;
mod snapshot;
mod sum;
mod sync;
mod tx;
mod view;
mod wal;
mod watchers;
mod witness;
mod writer;

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use self::examine::{Examined, examine};
pub use self::load::{Loader, STAGING, Target, is_unfinished};
pub use self::meter::Meter;
pub use self::migrate::SCHEMA;
pub use self::sled::SledStore;
pub(crate) use self::sync::create_whole;
pub use self::tx::{Record, Tx};
pub(crate) use self::tx::{json, names, read, records};

/// The largest value, bytes: larger ones would leave sled's log for blobs, which are never synced.
pub const MAX_VALUE: usize = 4000;
/// The largest key, bytes.
pub const MAX_KEY: usize = 400;
/// The most operations in one commit.
pub const MAX_OPS: usize = 20_000;

/// A value and the revision of the commit that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The commit's revision.
    pub revision: u64,
    /// The bytes.
    pub value: Vec<u8>,
}

/// What must hold for a commit to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key is not there.
    Absent,
    /// The key is there, as this commit wrote it.
    Revision(u64),
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes the key, or overwrites it.
    Put(Vec<u8>, Vec<u8>),
    /// Removes the key, if it is there.
    Delete(Vec<u8>),
    /// Writes the value under a new key that sorts after all that were appended to this prefix
    /// before: prefix ‖ [`Position`]. The days are what time segments are made of.
    Append(Vec<u8>, Vec<u8>),
}

/// Where an appended value stands: day ‖ revision ‖ index within the commit, big-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Days since 1970 by the writer's clock; never goes back.
    pub day: u32,
    /// The commit's revision.
    pub revision: u64,
    /// The place within the commit.
    pub index: u16,
}

impl Position {
    /// Bytes of an encoded position.
    pub const LEN: usize = 14;

    /// As it stands in keys.
    #[must_use]
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.day.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.revision.to_be_bytes());
        bytes[12..].copy_from_slice(&self.index.to_be_bytes());
        bytes
    }

    /// Reads what [`Position::encode`] wrote.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        Some(Position {
            day: u32::from_be_bytes(bytes[..4].try_into().ok()?),
            revision: u64::from_be_bytes(bytes[4..12].try_into().ok()?),
            index: u16::from_be_bytes(bytes[12..].try_into().ok()?),
        })
    }
}

/// Preconditions and changes: all of it is applied, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// What must hold.
    pub expect: Vec<(Vec<u8>, Expect)>,
    /// What changes, in order.
    pub ops: Vec<Op>,
}

impl Commit {
    /// Whether its preconditions hold of keys at these revisions.
    pub(crate) fn holds(
        &self,
        revision: impl Fn(&[u8]) -> Result<Option<u64>, StoreError>,
    ) -> Result<bool, StoreError> {
        for (key, expect) in &self.expect {
            let stands = revision(key)?;
            let holds = match expect {
                Expect::Absent => stands.is_none(),
                Expect::Revision(revision) => stands == Some(*revision),
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A key's place among the engine's counters of changes, and how far that had counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    place: u32,
    count: u64,
}

/// Which keys to read: `from <= key < to`, at most `limit`.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// The first key.
    pub from: &'a [u8],
    /// The first key that is no longer in it.
    pub to: &'a [u8],
    /// The most entries to return.
    pub limit: usize,
    /// From the end backwards.
    pub reverse: bool,
}

/// One key and what stands under it.
pub type Entry = (Vec<u8>, Versioned);

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition does not hold: somebody else was first.
    #[error("the store has changed meanwhile")]
    Conflict,
    /// A key, value or commit beyond the store's limits.
    #[error("too large for the store: {0}")]
    TooLarge(&'static str),
    /// Too many audit events wait to be moved to segments.
    #[error("the audit trail is full: its segments cannot be written; see the log")]
    TrailFull,
    /// The writer has ended: the process is going down.
    #[error("the store is closed")]
    Closed,
    /// Another process has it.
    #[error("{path} is in use by another process")]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// What stands there is not ours, or of a version that this one does not know.
    #[error("{path} cannot be used: {problem}")]
    Unusable {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A snapshot is being read already.
    #[error("another backup is running; wait until it has ended")]
    Busy,
    /// A snapshot was given up.
    #[error("too much has changed while the backup was read; read it faster, or at a quiet time")]
    Overtaken,
    /// A record that cannot be read.
    #[error("record {key:?} cannot be read")]
    Unreadable {
        /// The key, as text.
        key: String,
        /// What the decoder said.
        #[source]
        source: serde_json::Error,
    },
    /// The disk or the engine failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The engine failed on a read.
    #[error("the store failed")]
    Engine(#[source] ::sled::Error),
}

/// An ordered key/value store with conditional, durable commits.
pub trait Store: Send + Sync + 'static {
    /// What stands under the key.
    ///
    /// # Errors
    /// When the engine fails.
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError>;

    /// The revision of what stands under the key: tells cheaply whether it is still the same.
    ///
    /// # Errors
    /// When the engine fails.
    fn revision(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        Ok(self.get(key)?.map(|found| found.revision))
    }

    /// What tells later without a look that a key stands as it does now, where the engine has such.
    /// To be asked before the key is read. Whoever wraps a store must pass it on, so there is no
    /// default.
    fn stamp(&self, key: &[u8]) -> Option<Stamp>;

    /// Whether the key of a stamp stands as it did. It may say no although nothing has changed.
    fn is_still(&self, stamp: Stamp) -> bool;

    /// A range of keys in order.
    ///
    /// # Errors
    /// When the engine fails.
    fn range(&self, range: Range<'_>) -> Result<Vec<Entry>, StoreError>;

    /// Applies the commit if all its preconditions hold, and answers its revision once it is
    /// durable. Dropping the future does not undo it. One without operations answers once all that
    /// its preconditions saw is durable.
    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<u64, StoreError>>;

    /// The revision of the newest durable commit that touched a key under this prefix (which must
    /// end in `/`). Level-triggered: a slow watcher sees the newest, not each.
    fn watch(&self, prefix: &[u8]) -> watch::Receiver<u64>;

    /// The state as it stands now, read part by part while commits go on.
    fn snapshot(&self) -> BoxFuture<'static, Result<Box<dyn Snapshot>, StoreError>>;

    /// What its writer counts, where it has one.
    fn meter(&self) -> Option<Meter> {
        None
    }

    /// Commits that wait, about.
    fn queued(&self) -> usize {
        0
    }

    /// Ends the writer once everything acknowledged or queued is durable.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// Where a snapshot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The schema of its entries.
    pub schema: u32,
    /// The newest revision in it.
    pub revision: u64,
    /// The last day that a value was appended under.
    pub day: u32,
}

/// One consistent, durable state of the store. Dropping it ends it.
pub trait Snapshot: Send {
    /// Where it stands.
    fn head(&self) -> SnapshotHead;

    /// The next entries in the order of their keys, perhaps none yet; `None` at the end.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Entry>>, StoreError>>;
}

/// The first key after all that begin with `prefix`.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Only a prefix of 0xff bytes has no end; keys here are text up to their position.
    vec![u8::MAX; MAX_KEY]
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod mem;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod view_tests;
