//! The trail as a whole: segments on the disk, and after them what waits in the store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::bound::{Bounded, Load, MAX_WAITING};
use super::error::TrailError;
use super::marks::{MOVED, Marks, Moved};
use super::query::{Ask, Page};
use super::recover::recover;
use super::segment::{Index, Name, Segment};
use super::settings::AuditSettings;
use super::writer::Writer;
use super::{PREFIX, outbox};
use crate::store::{Store, Tx};

/// Queries that read at once: each holds a thread and keeps a core busy. More of them wait.
const SCANS: usize = 2;
/// How long a long poll gathers events after the first.
const GATHER: Duration = Duration::from_millis(100);

/// How the trail stands.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Events that wait in the store, about.
    pub waiting: usize,
    /// Whether they are moved to segments; not since a failure.
    pub moving: bool,
    /// Segments that are known to be damaged.
    pub damaged: usize,
    /// What segments take, bytes.
    pub bytes: u64,
}

/// The audit trail.
pub struct Trail {
    pub(super) settings: AuditSettings,
    pub(super) dir: PathBuf,
    /// Without the bound: what the trail does to itself must go on when it is full.
    pub(super) store: Arc<dyn Store>,
    /// How much waits in the store.
    pub(super) load: Arc<Load>,
    /// Only the mover changes segments; it does so off the async workers, hence the lock.
    writer: Mutex<Writer>,
    /// What queries see: durable in segments, published before it is taken out of the store.
    index: RwLock<Index>,
    /// The damaged segments that were logged.
    damaged: Mutex<BTreeSet<Name>>,
    scans: Arc<Semaphore>,
}

impl Trail {
    /// Opens the segments in `dir` beside the store, and repairs what a crash left.
    ///
    /// # Errors
    /// When the disk or the store fails, or the store is older than the segments.
    pub async fn open(
        store: Arc<dyn Store>,
        dir: &Path,
        settings: AuditSettings,
    ) -> Result<Arc<Self>, TrailError> {
        Self::open_with(store, dir, settings, settings.segment_bytes()).await
    }

    pub(super) async fn open_with(
        store: Arc<dyn Store>,
        dir: &Path,
        settings: AuditSettings,
        segment_bytes: u64,
    ) -> Result<Arc<Self>, TrailError> {
        let marks = Marks::read(&*store)?;
        let index = recover(dir, &marks)?;
        // A killed process leaves events in the store that are applied but not synced. A commit
        // syncs all before it: nothing may get into a segment that a power cut can still undo.
        let mut tx = Tx::new(&*store);
        let moved = Moved { up_to: marks.moved };
        tx.put(MOVED, &moved)?;
        let revision = store.commit(tx.into_commit()).await?;
        if index.end.revision >= revision {
            return Err(TrailError::StoreBehind {
                path: dir.to_owned(),
                segments: index.end.revision,
                store: revision,
            });
        }
        let load = Arc::new(Load::default());
        load.set(outbox::count(&*store, MAX_WAITING + 1)?);
        let dropped = marks.dropped.map(|dropped| dropped.up_to);
        let writer = Writer::open(dir, segment_bytes, index.clone(), dropped)?;
        Ok(Arc::new(Trail {
            settings,
            dir: dir.to_owned(),
            store,
            load,
            writer: Mutex::new(writer),
            index: RwLock::new(index),
            damaged: Mutex::default(),
            scans: Arc::new(Semaphore::new(SCANS)),
        }))
    }

    /// The store for everyone else: it holds back changes while too many events wait.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::new(Bounded::new(
            Arc::clone(&self.store),
            Arc::clone(&self.load),
        ))
    }

    /// A page of the trail, read off the async workers.
    ///
    /// # Errors
    /// When the store fails. Damaged segments are named in the page, and the rest is in it.
    pub async fn page(self: &Arc<Self>, ask: Ask) -> Result<Page, TrailError> {
        let broken_off = |error: &dyn std::fmt::Display| {
            TrailError::Failed(format!("reading the audit trail was broken off: {error}"))
        };
        let permit = Arc::clone(&self.scans).acquire_owned().await;
        let permit = permit.map_err(|error| broken_off(&error))?;
        let trail = Arc::clone(self);
        // The permit goes along: who hangs up early does not make room for one more.
        let reading = tokio::task::spawn_blocking(move || {
            let page = trail.find(&ask);
            drop(permit);
            page
        });
        reading.await.map_err(|error| broken_off(&error))?
    }

    /// A page; at the end of the trail it waits until there is something for it, `wait` is over or
    /// `stopping` turns true.
    ///
    /// # Errors
    /// As [`Trail::page`].
    pub async fn page_or_wait(
        self: &Arc<Self>,
        mut ask: Ask,
        wait: Duration,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<Page, TrailError> {
        let deadline = Instant::now() + wait;
        // Subscribed before the first look, so nothing between look and wait is missed.
        let mut changes = self.store.watch(PREFIX.as_bytes());
        loop {
            changes.borrow_and_update();
            let page = self.page(ask.clone()).await?;
            let (true, Some(end)) = (page.events.is_empty(), page.follow) else {
                return Ok(page);
            };
            let change = async {
                tokio::select! {
                    changed = changes.changed() => changed.is_ok(),
                    _ = stopping.wait_for(|&stop| stop) => false,
                }
            };
            if !timeout_at(deadline, change).await.unwrap_or(false) {
                return Ok(page);
            }
            tokio::time::sleep(GATHER).await;
            (ask.cursor, ask.newest) = (Some(end), false);
        }
    }

    /// How it stands.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let index = self.index();
        let found = |segment: &&Segment| segment.damaged;
        let known = index.segments().filter(found).map(|segment| segment.name);
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        // What has gone since is no longer damaged.
        damaged.retain(|name| index.segments().any(|segment| segment.name == *name));
        let damaged = known.chain(damaged.iter().copied());
        Figures {
            waiting: self.load.waiting(),
            moving: self.load.moves(),
            damaged: damaged.collect::<BTreeSet<Name>>().len(),
            bytes: index.bytes(),
        }
    }

    /// What is in segments now.
    pub(super) fn index(&self) -> Index {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.clone()
    }

    /// Lets queries see what the writer has made durable.
    pub(super) fn publish(&self, index: &Index) {
        let mut published = self.index.write().unwrap_or_else(PoisonError::into_inner);
        *published = index.clone();
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs blocking work of the mover off the async workers.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, TrailError> + Send + 'static,
    ) -> Result<T, TrailError> {
        let trail = Arc::clone(self);
        tokio::task::spawn_blocking(move || work(&trail))
            .await
            .map_err(|error| TrailError::Failed(format!("moving audit events: {error}")))?
    }

    /// Logs, once, that a segment cannot be read as a whole.
    pub(super) fn note_damage(&self, name: Name, problem: &dyn std::fmt::Display) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.insert(name) {
            tracing::error!(
                segment = %self.dir.join(name.to_string()).display(),
                %problem,
                "an audit segment is damaged; the rest is served, the file is left as it is: \
                 restore it from a backup"
            );
        }
    }

    /// Unix milliseconds.
    pub(super) fn now_ms() -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}
