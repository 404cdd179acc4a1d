//! The bound on what waits in the store: all of it is in memory there.
//!
//! While the mover is at work, changes that come faster than it moves their events wait for it.
//! While it cannot write, they go on up to a bound, and are then refused: nothing happens without
//! its event, and nothing is left out silently.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};

use super::PREFIX;
use crate::store::{
    Commit, Entry, Meter, Op, Range, Snapshot, Stamp, Store, StoreError, Versioned,
};

/// Waiting events past which changes wait for a mover that is at work.
const SLOW: usize = 100_000;
/// Waiting events past which changes are refused when it is not. They are some hundred bytes each.
pub(super) const MAX_WAITING: usize = 200_000;
/// Waiting events at which they are moved, however little time has passed: what is passed on while it
/// is new is still in the processor's cache, and takes little memory.
pub(super) const MANY: usize = 1024;
/// Between two looks of a change that waits.
const LOOK: Duration = Duration::from_millis(10);

/// What is known of how much waits. The mover counts now and then; in between it is added up.
#[derive(Default)]
pub(super) struct Load {
    waiting: AtomicUsize,
    /// The mover is at work, and what waits gets less.
    moving: AtomicBool,
    /// Told when many wait.
    many: Notify,
}

impl Load {
    /// So many wait.
    pub(super) fn set(&self, waiting: usize) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// So many more wait.
    fn more(&self, events: usize) {
        let before = self.waiting.fetch_add(events, Ordering::Relaxed);
        if before < MANY && before + events >= MANY {
            self.many.notify_one();
        }
    }

    /// Until many wait.
    pub(super) async fn many(&self) {
        while self.waiting() < MANY {
            self.many.notified().await;
        }
    }

    /// So many were moved.
    pub(super) fn moved(&self, events: usize) {
        let less = |waiting: usize| Some(waiting.saturating_sub(events));
        let _ = self
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether the mover is at work.
    pub(super) fn is_moving(&self, moving: bool) {
        self.moving.store(moving, Ordering::Relaxed);
    }

    /// Whether the mover is at work, and has not failed.
    pub(super) fn moves(&self) -> bool {
        self.moving.load(Ordering::Relaxed)
    }

    /// How many wait, about.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Lets one more change in; waits for a mover that is at work.
    async fn admit(&self) -> Result<(), StoreError> {
        while self.waiting() > SLOW {
            if !self.moving.load(Ordering::Relaxed) {
                let full = self.waiting() > MAX_WAITING;
                return if full {
                    Err(StoreError::TrailFull)
                } else {
                    Ok(())
                };
            }
            // Apart: with a timer in it each commit's future would be large, and aligned to 128 bytes.
            Box::pin(tokio::time::sleep(LOOK)).await;
        }
        Ok(())
    }
}

/// The store as the rest of the control plane has it.
pub(super) struct Bounded {
    inner: Arc<dyn Store>,
    load: Arc<Load>,
}

impl Bounded {
    pub(super) fn new(inner: Arc<dyn Store>, load: Arc<Load>) -> Self {
        Bounded { inner, load }
    }
}

impl Store for Bounded {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        self.inner.get(key)
    }

    fn revision(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        self.inner.revision(key)
    }

    fn stamp(&self, key: &[u8]) -> Option<Stamp> {
        self.inner.stamp(key)
    }

    fn is_still(&self, stamp: Stamp) -> bool {
        self.inner.is_still(stamp)
    }

    fn range(&self, range: Range<'_>) -> Result<Vec<Entry>, StoreError> {
        self.inner.range(range)
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<u64, StoreError>> {
        let tells = |op: &&Op| matches!(op, Op::Append(to, _) if to == PREFIX.as_bytes());
        let events = commit.ops.iter().filter(tells).count();
        if events == 0 {
            return self.inner.commit(commit);
        }
        let (inner, load) = (Arc::clone(&self.inner), Arc::clone(&self.load));
        async move {
            load.admit().await?;
            // Before they are there: whoever sees them has them counted, or counts them.
            load.more(events);
            let committed = inner.commit(commit).await;
            if committed.is_err() {
                load.moved(events);
            }
            committed
        }
        .boxed()
    }

    fn watch(&self, prefix: &[u8]) -> watch::Receiver<u64> {
        self.inner.watch(prefix)
    }

    fn snapshot(&self) -> BoxFuture<'static, Result<Box<dyn Snapshot>, StoreError>> {
        self.inner.snapshot()
    }

    fn meter(&self) -> Option<Meter> {
        self.inner.meter()
    }

    fn queued(&self) -> usize {
        self.inner.queued()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SledStore;

    #[tokio::test]
    async fn what_changed_can_be_told_without_a_look() {
        let dir = tempfile::tempdir().unwrap();
        let inner = Arc::new(SledStore::open(dir.path(), 1 << 20).unwrap());
        let store = Bounded::new(Arc::<SledStore>::clone(&inner), Arc::default());
        let before = store.stamp(b"k").unwrap();
        assert!(store.is_still(before) && inner.is_still(before));
        let ops = vec![Op::Put(b"k".to_vec(), b"v".to_vec())];
        let expect = Vec::new();
        store.commit(Commit { expect, ops }).await.unwrap();
        assert!(!store.is_still(before));
    }

    #[tokio::test]
    async fn a_mover_at_work_is_waited_for_and_one_that_is_not_has_a_bound() {
        let load = Load::default();
        let admitted = async || {
            let admit = tokio::time::timeout(10 * LOOK, load.admit());
            admit.await.map(|admitted| admitted.is_ok()).ok()
        };
        assert_eq!(admitted().await, Some(true));
        load.set(SLOW + 1);
        assert_eq!(
            admitted().await,
            Some(true),
            "it does not move: up to the bound"
        );
        load.set(MAX_WAITING + 1);
        assert_eq!(admitted().await, Some(false));
        load.is_moving(true);
        assert_eq!(admitted().await, None, "it moves: wait");
        load.moved(MAX_WAITING - SLOW + 1);
        assert_eq!(admitted().await, Some(true));
        load.moved(MAX_WAITING);
        assert_eq!(load.waiting(), 0);
        let many = async || tokio::time::timeout(LOOK, load.many()).await.is_ok();
        load.more(MANY - 1);
        assert!(!many().await);
        let (told, ()) = tokio::join!(many(), async { load.more(1) });
        assert!(told && many().await, "as long as they wait");
    }
}
