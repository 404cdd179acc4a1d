//! The store in memory: the smallest backend that passes the suite. Its state outlives the handle,
//! as a database server's does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::watch;

use super::watchers::Watchers;
use super::writer::{Head, within_limits};
use super::*;

/// What a server would hold.
#[derive(Default)]
pub(super) struct State {
    entries: BTreeMap<Vec<u8>, Versioned>,
    head: Head,
}

/// A connection to it.
pub(super) struct MemStore {
    state: Arc<Mutex<State>>,
    watchers: Watchers,
    closed: Mutex<bool>,
}

impl MemStore {
    pub(super) fn open(state: &Arc<Mutex<State>>) -> Self {
        MemStore {
            state: Arc::clone(state),
            watchers: Watchers::default(),
            closed: Mutex::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, commit: Commit) -> Result<u64, StoreError> {
        if *self.closed.lock().unwrap() {
            return Err(StoreError::Closed);
        }
        within_limits(&commit)?;
        let mut state = self.state();
        if !commit.holds(|key| Ok(state.entries.get(key).map(|found| found.revision)))? {
            return Err(StoreError::Conflict);
        }
        state.head.revision += 1;
        let head = state.head;
        let mut keys = Vec::new();
        for (index, op) in (0..).zip(commit.ops) {
            let (key, value) = match op {
                Op::Put(key, value) => (key, Some(value)),
                Op::Delete(key) => (key, None),
                Op::Append(prefix, value) => {
                    let position = Position {
                        day: head.day,
                        revision: head.revision,
                        index,
                    };
                    ([prefix, position.encode().to_vec()].concat(), Some(value))
                }
            };
            let revision = head.revision;
            match value {
                Some(value) => {
                    let found = Versioned { revision, value };
                    state.entries.insert(key.clone(), found);
                }
                None => drop(state.entries.remove(&key)),
            }
            keys.push(key);
        }
        drop(state);
        let changed = keys.iter().map(|key| (key.as_slice(), head.revision));
        self.watchers.tell(changed);
        Ok(head.revision)
    }
}

impl Store for MemStore {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        Ok(self.state().entries.get(key).cloned())
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
        let state = self.state();
        let found = state
            .entries
            .range(range.from.to_vec()..range.to.to_vec())
            .map(|(key, found)| (key.clone(), found.clone()));
        Ok(match range.reverse {
            true => found.rev().take(range.limit).collect(),
            false => found.take(range.limit).collect(),
        })
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<u64, StoreError>> {
        ready(self.apply(commit)).boxed()
    }

    fn watch(&self, prefix: &[u8]) -> watch::Receiver<u64> {
        let now = self.state().head.revision;
        self.watchers.follow(prefix, now)
    }

    fn snapshot(&self) -> BoxFuture<'static, Result<Box<dyn Snapshot>, StoreError>> {
        let state = self.state();
        let snapshot = MemSnapshot {
            head: SnapshotHead {
                schema: SCHEMA,
                revision: state.head.revision,
                day: state.head.day,
            },
            entries: Some(state.entries.clone().into_iter().collect()),
        };
        ready(Ok(Box::new(snapshot) as Box<dyn Snapshot>)).boxed()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        *self.closed.lock().unwrap() = true;
        ready(()).boxed()
    }
}

struct MemSnapshot {
    head: SnapshotHead,
    entries: Option<Vec<Entry>>,
}

impl Snapshot for MemSnapshot {
    fn head(&self) -> SnapshotHead {
        self.head
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Entry>>, StoreError>> {
        ready(Ok(self.entries.take())).boxed()
    }
}
