//! The mover: one task that takes events out of the store once they are durable in a segment.
//!
//! Its steps, each of which may be the last before a crash:
//! 1. read the next events that are durable in the store;
//! 2. append those after the segments' end to a segment, and fsync file and directory;
//! 3. let queries see them there;
//! 4. in one commit, delete them from the store and record how far it got.
//!
//! A crash before 4 leaves them in both places: the next round finds their positions at or before
//! the segments' end, appends none of them, and goes on with 4.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::bound::MAX_WAITING;
use super::error::TrailError;
use super::marks::{MOVED, Moved};
use super::outbox::Stored;
use super::{PREFIX, Trail, outbox};
use crate::store::{Op, Position, StoreError, Tx};

/// Events moved at once: more than usually wait, so that they cost two syncs, and few enough that the
/// deletion does not hold up the store's other commits.
pub(super) const BATCH: usize = 2048;
/// The rest between two moves, at least: the least that the setting may be.
const REST: Duration = Duration::from_millis(10);
/// Between two counts of what waits: what is added up in between drifts.
const COUNT: Duration = Duration::from_secs(10);
/// Between two looks at age and size.
const UPKEEP: Duration = Duration::from_secs(600);
/// The rest after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Between two lines in the log about the same failure.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Events in order.
pub(super) type Batch = Vec<Stored>;

impl Trail {
    /// Moves events until `stopping` turns true; keeps the segments within age and size. A panic
    /// must not end it unseen: everything else would go on until the store is full.
    pub async fn keep(self: Arc<Self>, stopping: watch::Receiver<bool>) {
        loop {
            let run = Arc::clone(&self).run(stopping.clone());
            let ended = tokio::spawn(run).await;
            self.load.is_moving(false);
            match ended {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(%error, "the audit mover broke off; starting it again")
                }
            }
            sleep(RETRY.1).await;
        }
    }

    async fn run(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        let mut changes = self.store.watch(PREFIX.as_bytes());
        let (mut upkeep_at, mut count_at) = (Instant::now(), Instant::now());
        let mut failing = Failing::default();
        self.load.is_moving(true);
        loop {
            let moved = self.move_all(&mut changes, &stopping).await;
            let failed = moved.is_err();
            if *stopping.borrow() {
                return;
            }
            if failed {
                self.load.is_moving(false);
            }
            if failed || Instant::now() >= count_at {
                self.count().await;
                count_at = Instant::now() + COUNT;
            }
            match moved {
                Ok(()) => failing.over(),
                Err(error) => failing.complain(&self, &error),
            }
            if Instant::now() >= upkeep_at || self.is_over_size() {
                let more = self.upkeep().await.unwrap_or_else(|error| {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(
                        error,
                        "keeping the audit segments failed; it is tried again"
                    );
                    false
                });
                upkeep_at = Instant::now() + if more { Duration::ZERO } else { UPKEEP };
            }
            let rest = async {
                if failed {
                    sleep(failing.rest).await;
                    return;
                }
                sleep(REST).await;
                tokio::select! {
                    () = sleep(self.settings.move_every.0.saturating_sub(REST)) => {}
                    () = self.load.many() => return,
                }
                tokio::select! {
                    _ = changes.changed() => {}
                    () = sleep_until(upkeep_at) => {}
                }
            };
            tokio::select! {
                () = rest => {}
                _ = stopping.wait_for(|&stop| stop) => return,
            }
        }
    }

    /// Moves all that is durable in the store. A batch is deleted while the next one is written.
    async fn move_all(
        self: &Arc<Self>,
        changes: &mut watch::Receiver<u64>,
        stopping: &watch::Receiver<bool>,
    ) -> Result<(), TrailError> {
        let mut written = Batch::new();
        loop {
            let durable = *changes.borrow_and_update();
            let after = written.last().map(|event| event.position);
            let next = self.blocking(move |trail| {
                let batch = trail.next_batch(after.unwrap_or_default(), durable)?;
                trail.append(batch)
            });
            let (finished, next) = tokio::join!(self.finish(&written), next);
            finished?;
            written = next?;
            self.load.is_moving(true);
            if written.len() < BATCH || *stopping.borrow() || self.is_over_size() {
                return self.finish(&written).await;
            }
        }
    }

    /// Step 1: what waits after this position. `durable` is the newest commit that no power cut can
    /// undo.
    pub(super) fn next_batch(&self, after: Position, durable: u64) -> Result<Batch, TrailError> {
        let mut batch = outbox::stored_after(&*self.store, after, BATCH)?;
        batch.truncate(batch.partition_point(|event| event.position.revision <= durable));
        Ok(batch)
    }

    /// Steps 2 and 3.
    pub(super) fn append(&self, batch: Batch) -> Result<Batch, TrailError> {
        let mut writer = self.writer();
        let end = writer.index().end;
        let mut done = batch.partition_point(|event| event.position <= end);
        while done < batch.len() {
            let appended = writer.append(&batch[done..]);
            self.publish(writer.index());
            done += appended?;
        }
        Ok(batch)
    }

    /// Step 4.
    pub(super) async fn finish(&self, batch: &Batch) -> Result<(), TrailError> {
        let Some(up_to) = batch.last().map(|event| event.position) else {
            return Ok(());
        };
        let mut tx = Tx::new(&*self.store);
        tx.put(MOVED, &Moved { up_to })?;
        let mut commit = tx.into_commit();
        let gone = batch.iter().map(|event| outbox::key(event.position));
        commit.ops.extend(gone.map(Op::Delete));
        self.store.commit(commit).await?;
        self.load.moved(batch.len());
        Ok(())
    }

    /// Counts what waits.
    async fn count(self: &Arc<Self>) {
        let counted = self.blocking(|trail| {
            let waiting = outbox::count(&*trail.store, MAX_WAITING + 1)?;
            trail.load.set(waiting);
            Ok(())
        });
        if let Err(error) = counted.await {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot count");
        }
    }

    fn is_over_size(&self) -> bool {
        self.index().bytes() > self.room()
    }

    /// What segments may take before the oldest go, bytes: with the active one's growth they then
    /// stay within the setting.
    pub(super) fn room(&self) -> u64 {
        self.settings.keep_bytes() - self.settings.segment_bytes()
    }
}

/// A failure that goes on.
#[derive(Default)]
struct Failing {
    rest: Duration,
    complained: Option<Instant>,
}

impl Failing {
    fn over(&mut self) {
        if self.complained.is_some() {
            tracing::info!("audit events are moved to segments again");
        }
        *self = Failing::default();
    }

    fn complain(&mut self, trail: &Trail, error: &TrailError) {
        self.rest = (self.rest * 2).clamp(RETRY.0, RETRY.1);
        let silent = |at: Instant| at.elapsed() < COMPLAIN;
        if self.complained.is_some_and(silent)
            || matches!(error, TrailError::Store(StoreError::Closed))
        {
            return;
        }
        self.complained = Some(Instant::now());
        tracing::error!(
            error = error as &dyn std::error::Error,
            waiting = trail.load.waiting(),
            refusing = trail.load.waiting() > MAX_WAITING,
            "audit events cannot be moved to segments and wait in the store, where they are safe; \
             beyond {MAX_WAITING} of them changes are refused: free space under {}, or check its \
             permissions",
            trail.dir.display()
        );
    }
}
