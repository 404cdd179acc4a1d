//! The one thread that writes: it drains what is queued, checks each commit's preconditions, applies
//! it in memory, writes all of them as one record to the log, syncs that, and only then acknowledges
//! and tells the watchers. Now and then what is in memory goes to sled (`checkpoint`).

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use super::checkpoint::Checkpoints;
use super::record::Record;
use super::snapshot::{Ask, Keeper};
use super::view::View;
use super::wal::Wal;
use super::watchers::Watchers;
use super::witness::Witness;
use super::{Commit, MAX_KEY, MAX_OPS, MAX_VALUE, Meter, Op, Position, StoreError};

/// Commits in one batch at most: enough to amortise a sync, few enough to bound the wait.
pub(super) const MAX_BATCH: usize = 512;

/// The store's own keys begin with this byte, all others with [`DATA`].
pub(super) const META: u8 = b'm';
/// Begins every key of the data.
pub(super) const DATA: u8 = b'd';
/// Where the last revision and day stand.
pub(super) const HEAD_KEY: &[u8] = b"mhead";

/// How long answers get on their way before the process ends.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Makes everything written to the log so far durable.
pub(super) type MakeDurable = Box<dyn FnMut(&Wal) -> Result<(), StoreError> + Send>;

/// When what is in memory goes to sled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The most that a layer takes, bytes, about.
    pub(super) layer: usize,
    /// The most that the log takes, bytes, about: it is read at the start after a kill.
    pub(super) log: u64,
}

impl Bounds {
    pub(super) const USUAL: Bounds = Bounds {
        layer: 32 << 20,
        log: 64 << 20,
    };
    /// What a layer may grow to while the one before it is still on its way to sled, in its own
    /// sizes: past it writes wait.
    const PATIENCE: usize = 2;
}

/// Where a commit is acknowledged.
pub(super) type Done = oneshot::Sender<Result<u64, StoreError>>;

/// What the writer thread is asked.
pub(super) enum Request {
    /// A commit and where to acknowledge it.
    Commit(Commit, Done),
    /// Something about a snapshot.
    Snapshot(Ask),
    /// The last request: end when all before it is durable.
    Close(oneshot::Sender<()>),
}

/// The last revision and the last day used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) revision: u64,
    pub(super) day: u32,
}

impl Head {
    /// Bytes of an encoded head.
    pub(super) const LEN: usize = 12;

    pub(super) fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.revision.to_be_bytes());
        bytes[8..].copy_from_slice(&self.day.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().ok()?;
        Some(Head {
            revision: u64::from_be_bytes(bytes[..8].try_into().ok()?),
            day: u32::from_be_bytes(bytes[8..].try_into().ok()?),
        })
    }
}

/// The writer's own things.
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) view: Arc<View>,
    pub(super) wal: Wal,
    pub(super) sync: MakeDurable,
    pub(super) bounds: Bounds,
    pub(super) head: Head,
    /// The newest durable revision, for those who begin to watch.
    pub(super) durable: Arc<AtomicU64>,
    pub(super) watchers: Arc<Watchers>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) snapshots: Keeper,
    pub(super) witness: Witness,
    pub(super) meter: Meter,
    pub(super) checkpoints: Checkpoints,
}

impl Writer {
    /// Runs until closed or until nobody can ask any more. A panic ends the process: without its
    /// writer it would answer reads, and no write, for ever.
    pub(super) fn run_or_end(self) {
        if catch_unwind(AssertUnwindSafe(|| self.run())).is_err() {
            // The panic's hook has said where.
            tracing::error!("the store's writer panicked; ending");
            std::process::exit(crate::EXIT_STORE_FAILED);
        }
    }

    fn run(mut self) {
        self.answer_all();
        // A closed store is sled alone: its seal says what that must be.
        self.checkpoints.begin(self.head, self.wal.number());
        self.checkpoints.wait();
    }

    /// Until it is closed, or nobody can ask any more.
    fn answer_all(&mut self) {
        let mut queue = Vec::with_capacity(MAX_BATCH);
        let mut record = Record::new();
        while self.requests.blocking_recv_many(&mut queue, MAX_BATCH) > 0 {
            // Without a `sched_yield` for more of them: where anybody else has work for this processor, it
            // costs a slice of 3 ms since Linux 6.18 (docs/benchmarks.md).
            while queue.len() < MAX_BATCH
                && let Ok(request) = self.requests.try_recv()
            {
                queue.push(request);
            }
            let (mut closing, mut asks) = (Vec::new(), Vec::new());
            let mut commits = Vec::with_capacity(queue.len());
            for request in queue.drain(..) {
                match request {
                    Request::Commit(commit, done) => commits.push((commit, done)),
                    Request::Snapshot(ask) => asks.push(ask),
                    Request::Close(done) => closing.push(done),
                }
            }
            self.write(commits, &mut record);
            for ask in asks {
                self.snapshots.answer(ask, &self.view, self.head);
            }
            if !closing.is_empty() {
                self.requests.close();
                while let Ok(request) = self.requests.try_recv() {
                    if let Request::Commit(_, done) = request {
                        let _ = done.send(Err(StoreError::Closed));
                    }
                }
                for done in closing {
                    let _ = done.send(());
                }
                return;
            }
        }
    }

    /// Applies what can be applied as one batch and acknowledges all of it.
    fn write(&mut self, commits: Vec<(Commit, Done)>, record: &mut Record) {
        let began = Instant::now();
        record.clear();
        let mut applied = Vec::with_capacity(commits.len());
        self.head.day = today().max(self.head.day);
        for (commit, done) in commits {
            if let Err(error) = self.check(&commit) {
                let _ = done.send(Err(error));
                continue;
            }
            match self.apply(commit, record) {
                Ok(keys) => applied.push((keys, self.head.revision, done)),
                Err(error) => {
                    let asked = applied.into_iter().map(|(_, _, done)| done);
                    end(&error, asked.chain([done]));
                }
            }
        }
        if record.len() > 0 {
            let written = self.wal.append(record, self.head);
            if let Err(error) = written.and_then(|()| (self.sync)(&self.wal)) {
                end(&error, applied.into_iter().map(|(_, _, done)| done));
            }
            self.durable.store(self.head.revision, Ordering::Release);
            self.witness.note(self.head.revision);
            self.meter.batch(applied.len(), began.elapsed());
        }
        let changed = applied
            .iter()
            .rev()
            .flat_map(|(keys, revision, _)| record.keys(keys.clone()).map(|key| (key, *revision)));
        self.watchers.tell(changed);
        for (_, revision, done) in applied {
            // The asker may have gone away; what it asked for is done all the same.
            let _ = done.send(Ok(revision));
        }
        if let Err(error) = self.make_room() {
            end(&error, std::iter::empty());
        }
    }

    /// Applies a commit in memory and adds it to the record; answers where in it. One without
    /// operations stands on what is applied so far: it is answered when that is durable.
    fn apply(&mut self, commit: Commit, record: &mut Record) -> Result<Range<usize>, StoreError> {
        let begin = record.len();
        if commit.ops.is_empty() {
            return Ok(begin..begin);
        }
        self.head.revision += 1;
        let head = self.head;
        let changes = changes(commit.ops, head);
        for (key, value, _) in &changes {
            record.push(key, head.revision, value.as_deref());
        }
        let end = record.len();
        self.snapshots.keep(&self.view, record.keys(begin..end))?;
        self.view.change(head.revision, changes);
        Ok(begin..end)
    }

    /// Sends a large layer on its way to sled, and begins another part of the log.
    fn make_room(&mut self) -> Result<(), StoreError> {
        let (bytes, is_busy) = self.view.load();
        self.meter
            .layer
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        let Bounds { layer, log } = self.bounds;
        let large = bytes >= layer || self.wal.length() >= log;
        if !large || (is_busy && bytes < Bounds::PATIENCE * layer) {
            return Ok(());
        }
        self.checkpoints.wait();
        let number = self.wal.number();
        self.wal = Wal::create(&self.dir, number + 1, self.head, 0)?;
        self.checkpoints.begin(self.head, number);
        Ok(())
    }

    /// Whether the commit is within limits and its preconditions hold.
    fn check(&self, commit: &Commit) -> Result<(), StoreError> {
        within_limits(commit)?;
        match commit.holds(|key| self.view.revision_once(key))? {
            true => Ok(()),
            false => Err(StoreError::Conflict),
        }
    }
}

/// Refuses what is not durable and ends the process. After a failed sync nobody knows what is on
/// the disk: another try could succeed and acknowledge what is lost. A restart reads what is there.
pub(super) fn end(error: &StoreError, asked: impl Iterator<Item = Done>) -> ! {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "the store failed; ending"
    );
    for done in asked {
        let _ = done.send(Err(StoreError::Closed));
    }
    std::thread::sleep(LAST_WORDS);
    std::process::exit(crate::EXIT_STORE_FAILED)
}

pub(super) fn within_limits(commit: &Commit) -> Result<(), StoreError> {
    if commit.ops.len() > MAX_OPS {
        return Err(StoreError::TooLarge("operations"));
    }
    for op in &commit.ops {
        let (key, value) = match op {
            Op::Put(key, value) | Op::Append(key, value) => (key, value.len()),
            Op::Delete(key) => (key, 0),
        };
        if key.len() > MAX_KEY {
            return Err(StoreError::TooLarge("key"));
        }
        if value > MAX_VALUE {
            return Err(StoreError::TooLarge("value"));
        }
    }
    Ok(())
}

/// The keys that these operations change, in order, and what stands there then; and whether the key
/// is a new one that nothing can stand under.
fn changes(ops: Vec<Op>, head: Head) -> Vec<(Vec<u8>, Option<Vec<u8>>, bool)> {
    let mut index = 0;
    let change = |op| match op {
        Op::Put(key, value) => (key, Some(value), false),
        Op::Delete(key) => (key, None, false),
        Op::Append(mut key, value) => {
            let position = Position {
                day: head.day,
                revision: head.revision,
                index,
            };
            // MAX_OPS is below u16::MAX, so the index does not wrap.
            index += 1;
            key.extend_from_slice(&position.encode());
            (key, Some(value), true)
        }
    };
    ops.into_iter().map(change).collect()
}

/// The key as it stands in the tree.
pub(super) fn data_key(key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(DATA);
    full.extend_from_slice(key);
    full
}

/// The stored form of a value: revision ‖ bytes.
pub(super) fn join(revision: u64, value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(8 + value.len());
    stored.extend_from_slice(&revision.to_be_bytes());
    stored.extend_from_slice(value);
    stored
}

/// Undoes [`join`].
pub(super) fn split(stored: &[u8]) -> (u64, &[u8]) {
    match stored.split_first_chunk::<8>() {
        Some((revision, value)) => (u64::from_be_bytes(*revision), value),
        None => (0, &[]),
    }
}

fn today() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(since.as_secs() / 86_400).unwrap_or(u32::MAX)
}
