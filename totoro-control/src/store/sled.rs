//! sled 0.34.7 behind the trait, with a log of its own in front (see the `writer`, `wal` and
//! `checkpoint` modules). The release is pinned: the on-disk format and the durability recipe were
//! proven on exactly this one.

use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use super::checkpoint::Checkpoints;
use super::record::{Change, Record};
use super::seal::SealOnDrop;
use super::snapshot::{Keeper, SledSnapshot};
use super::sum::{Sum, Target};
use super::sync::{make_dir, sync_all};
use super::view::{Layer, View};
use super::wal::{self, LogError, Wal};
use super::watchers::Watchers;
use super::witness::Witness;
use super::writer::{Bounds, HEAD_KEY, Head, MAX_BATCH, MakeDurable, Request, Writer};
use super::{
    Commit, Entry, Meter, Range, Snapshot, Stamp, Store, StoreError, Versioned, examine, ground,
};

/// Commits waiting for the writer; beyond it `commit` waits, which is the back-pressure.
const QUEUE: usize = 4096;
/// The store in one directory, held by one process.
pub struct SledStore {
    view: Arc<View>,
    durable: Arc<AtomicU64>,
    watchers: Arc<Watchers>,
    requests: mpsc::Sender<Request>,
    meter: Meter,
    /// Joined on drop, so that the directory's lock is free again when the store is gone.
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Last, since it needs all of sled gone.
    _seal: SealOnDrop,
}

impl SledStore {
    /// Opens the store, or makes it where there is none. `cache_bytes` bounds sled's page cache.
    ///
    /// # Errors
    /// When it is in use, is not ours or newer, or the disk fails.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        Self::open_with(dir, cache_bytes, Bounds::USUAL, Box::new(Wal::sync))
    }

    /// [`SledStore::open`] with what changes may take in memory on their way to sled, bytes.
    ///
    /// # Errors
    /// As there.
    pub fn open_sized(dir: &Path, cache_bytes: u64, layer_bytes: u64) -> Result<Self, StoreError> {
        let bounds = Bounds {
            layer: usize::try_from(layer_bytes).unwrap_or(usize::MAX / 4),
            log: 2 * layer_bytes,
        };
        Self::open_with(dir, cache_bytes, bounds, Box::new(Wal::sync))
    }

    /// [`SledStore::open`] with when the log goes to sled, and with what makes it durable: tests put
    /// a slow or a broken disk there.
    pub(super) fn open_with(
        dir: &Path,
        cache_bytes: u64,
        bounds: Bounds,
        sync: MakeDurable,
    ) -> Result<Self, StoreError> {
        let io = |doing, source| StoreError::Io {
            doing,
            path: dir.to_owned(),
            source,
        };
        make_dir(dir).map_err(|source| io("create", source))?;
        let unusable = |problem: String| StoreError::Unusable {
            path: dir.to_owned(),
            problem,
        };
        let examined = examine::before_opening(dir)?;
        let began = Instant::now();
        let db = ::sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            // The writer flushes; a timer's flush beside it only costs memory and time.
            .flush_every_ms(None)
            .open()
            .map_err(|error| match error {
                ::sled::Error::Io(error) if is_lock(&error) => StoreError::InUse {
                    path: dir.to_owned(),
                },
                ::sled::Error::Io(source) => io("open", source),
                other => unusable(format!("{other}; restore it from a backup")),
            })?;
        let sled_ms = examine::ms_since(began);
        let tree = (*db).clone();
        ground::settle(&tree, dir)?;
        let head = match tree.get(HEAD_KEY).map_err(StoreError::Engine)? {
            Some(head) => Head::decode(&head).ok_or_else(|| unusable("no head".to_owned()))?,
            None => Head::default(),
        };
        let known = Target::read(dir).map_err(|source| io("read the sum of", source))?;
        let sum = match known.filter(|known| known.revision == head.revision) {
            Some(known) => known.sum,
            // Killed while a layer went to sled, or none ever did.
            None => match examined {
                Some(sum) => sum,
                None => Sum::of(&tree)?,
            },
        };
        // What says that the store is ours may be new.
        tree.flush().map_err(StoreError::Engine)?;
        let (layer, wal, head) = recover(dir, head)?;
        tracing::info!(
            revision = head.revision,
            sled_ms,
            all_ms = examine::ms_since(began),
            "the store is open"
        );
        let durable = Arc::new(AtomicU64::new(head.revision));
        let watchers = Arc::new(Watchers::default());
        let view = Arc::new(View::new(tree.clone(), layer));
        let (requests, receiver) = mpsc::channel(QUEUE);
        let meter = Meter::default();
        let writer = Writer {
            dir: dir.to_owned(),
            view: Arc::clone(&view),
            wal,
            sync,
            bounds,
            head,
            durable: Arc::clone(&durable),
            watchers: Arc::clone(&watchers),
            requests: receiver,
            snapshots: Keeper::default(),
            witness: Witness::open(dir).map_err(|source| io("open the witness of", source))?,
            meter: meter.clone(),
            checkpoints: Checkpoints::new(dir.to_owned(), tree, Arc::clone(&view), sum),
        };
        // The database handle goes with the writer: sled's lock is freed when both are gone.
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer.run_or_end();
                drop(db);
            })
            .map_err(|source| io("start the writer of", source))?;
        let seal = SealOnDrop {
            dir: dir.to_owned(),
            revision: Arc::clone(&durable),
        };
        Ok(SledStore {
            view,
            durable,
            watchers,
            requests,
            meter,
            writer: Mutex::new(Some(thread)),
            _seal: seal,
        })
    }
}

/// What the log has beyond sled, which stands at `head`; a new part of the log, and where the store
/// stands.
fn recover(dir: &Path, head: Head) -> Result<(Layer, Wal, Head), StoreError> {
    let mut layer = Layer::default();
    let take = |Change {
                    key,
                    revision,
                    value,
                }| layer.apply(key, revision, value, false);
    let end = wal::replay(dir, head, take).map_err(|error| match error {
        LogError::Store(error) => error,
        LogError::Damaged(problem) => StoreError::Unusable {
            path: dir.to_owned(),
            problem: format!("{problem}; restore it from a backup"),
        },
    })?;
    end.settle(dir)?;
    let mut wal = Wal::create(dir, end.number + 1, end.head, end.length)?;
    // Readers may have seen revisions of a batch that never became durable. No other commit may get
    // the same ones, so each start leaves a batch's worth out, and says so durably: a second crash
    // before the first commit must not hand them out either.
    let head = Head {
        revision: end.head.revision + MAX_BATCH as u64,
        ..end.head
    };
    wal.append(&mut Record::new(), head)?;
    wal.sync()?;
    // From here on all that can be read is durable. Each start does it, since the one that made the
    // files, or wrote what was recovered, may have died before its own.
    sync_all(dir)?;
    Ok((layer, wal, head))
}

/// sled reports a held lock as an I/O error of kind Other whose text names the lock.
fn is_lock(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Versioned>, StoreError> {
        self.view.get(key)
    }

    fn revision(&self, key: &[u8]) -> Result<Option<u64>, StoreError> {
        self.view.revision(key)
    }

    fn stamp(&self, key: &[u8]) -> Option<Stamp> {
        Some(self.view.stamp(key))
    }

    fn is_still(&self, stamp: Stamp) -> bool {
        self.view.is_still(stamp)
    }

    fn range(&self, range: Range<'_>) -> Result<Vec<Entry>, StoreError> {
        let Range {
            from,
            to,
            limit,
            reverse,
        } = range;
        self.view.range(from, Bound::Excluded(to), limit, reverse)
    }

    fn commit(&self, commit: Commit) -> BoxFuture<'static, Result<u64, StoreError>> {
        let requests = self.requests.clone();
        async move {
            let (done, acknowledged) = oneshot::channel();
            let sent = requests.send(Request::Commit(commit, done)).await;
            sent.map_err(|_| StoreError::Closed)?;
            acknowledged.await.map_err(|_| StoreError::Closed)?
        }
        .boxed()
    }

    fn watch(&self, prefix: &[u8]) -> watch::Receiver<u64> {
        self.watchers
            .follow(prefix, self.durable.load(Ordering::Acquire))
    }

    fn snapshot(&self) -> BoxFuture<'static, Result<Box<dyn Snapshot>, StoreError>> {
        let requests = self.requests.clone();
        async move {
            let snapshot = SledSnapshot::begin(requests).await?;
            Ok(Box::new(snapshot) as Box<dyn Snapshot>)
        }
        .boxed()
    }

    fn meter(&self) -> Option<Meter> {
        Some(self.meter.clone())
    }

    fn queued(&self) -> usize {
        QUEUE - self.requests.capacity()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let requests = self.requests.clone();
        async move {
            let (done, closed) = oneshot::channel();
            if requests.send(Request::Close(done)).await.is_ok() {
                let _ = closed.await;
            }
        }
        .boxed()
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // The last sender goes, the writer's queue runs dry, and it ends.
        let (gone, _) = mpsc::channel(1);
        self.requests = gone;
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
    }
}
