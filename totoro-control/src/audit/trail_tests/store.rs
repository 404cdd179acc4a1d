//! A store in memory: it can be copied, which is what putting it back after a crash takes, and its
//! day is what a test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::watch;

use super::super::id::write_id;
use crate::store::{
    Commit, Entry, Expect, Op, Position, Range, Snapshot, Stamp, Store, StoreError, Versioned,
};

#[derive(Clone, Default)]
struct Inner {
    entries: BTreeMap<Vec<u8>, Versioned>,
    appended: Vec<(Vec<u8>, Position)>,
    revision: u64,
    day: u32,
}

#[derive(Clone, Default)]
pub(super) struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// The same contents, apart from now on.
    pub(super) fn copy(&self) -> Self {
        MemoryStore {
            inner: Arc::new(Mutex::new(self.lock().clone())),
        }
    }

    pub(super) fn next_day(&self) {
        self.lock().day += 1;
    }

    /// Noon of its day, Unix milliseconds.
    pub(super) fn now_ms(&self) -> i64 {
        i64::from(self.lock().day) * 86_400_000 + 43_200_000
    }

    /// The ids of all that was ever appended under a prefix.
    pub(super) fn appended(&self, prefix: &str) -> Vec<String> {
        let inner = self.lock();
        let of_it = inner
            .appended
            .iter()
            .filter(|(at, _)| at == prefix.as_bytes());
        of_it.map(|(_, position)| write_id(*position)).collect()
    }

    /// How many keys are under a prefix.
    pub(super) fn count(&self, prefix: &str) -> usize {
        let inner = self.lock();
        inner
            .entries
            .keys()
            .filter(|key| key.starts_with(prefix.as_bytes()))
            .count()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        Ok(self.lock().entries.get(key).cloned())
    }

    fn stamp(&self, _key: &[u8]) -> Option<Stamp> {
        None
    }

    fn is_still(&self, _stamp: Stamp) -> bool {
        false
    }

    fn range(&self, range: Range<'_>) -> Result<Vec<Entry>, StoreError> {
        if range.from >= range.to {
            return Ok(Vec::new());
        }
        let inner = self.lock();
        let found = inner.entries.range(range.from.to_vec()..range.to.to_vec());
        let entry = |(key, value): (&Vec<u8>, &Versioned)| (key.clone(), value.clone());
        Ok(if range.reverse {
            found.rev().take(range.limit).map(entry).collect()
        } else {
            found.take(range.limit).map(entry).collect()
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<u64, StoreError>> {
        let mut inner = self.lock();
        let holds = commit.expect.iter().all(|(key, expect)| {
            let stands = inner.entries.get(key).map(|found| found.revision);
            match expect {
                Expect::Absent => stands.is_none(),
                Expect::Revision(revision) => stands == Some(*revision),
            }
        });
        if !holds {
            return ready(Err(StoreError::Conflict)).boxed();
        }
        inner.revision += 1;
        let (revision, mut index) = (inner.revision, 0);
        for op in commit.ops {
            match op {
                Op::Put(key, value) => {
                    inner.entries.insert(key, Versioned { revision, value });
                }
                Op::Delete(key) => {
                    inner.entries.remove(&key);
                }
                Op::Append(prefix, value) => {
                    let position = Position {
                        day: inner.day,
                        revision,
                        index,
                    };
                    index += 1;
                    let key = [&prefix[..], &position.encode()].concat();
                    inner.entries.insert(key, Versioned { revision, value });
                    inner.appended.push((prefix, position));
                }
            }
        }
        ready(Ok(revision)).boxed()
    }

    fn watch(&self, _: &[u8]) -> watch::Receiver<u64> {
        watch::channel(self.lock().revision).1
    }

    fn snapshot(&self) -> BoxFuture<'static, Result<Box<dyn Snapshot>, StoreError>> {
        // No test of the trail makes a backup.
        ready(Err(StoreError::Busy)).boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}
