//! The one thread that writes: it drains what is queued, checks each commit's preconditions,
//! applies one sled batch, flushes, syncs, and only then acknowledges and tells the watchers.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use super::snapshot::{Ask, Keeper};
use super::watchers::Watchers;
use super::witness::Witness;
use super::{Commit, Expect, MAX_KEY, MAX_OPS, MAX_VALUE, Meter, Op, Position, StoreError};

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
pub(super) type MakeDurable = Box<dyn FnMut() -> Result<(), StoreError> + Send>;

/// Where a commit is acknowledged.
type Done = oneshot::Sender<Result<u64, StoreError>>;

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
    pub(super) fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&self.revision.to_be_bytes());
        bytes[8..].copy_from_slice(&self.day.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 12] = bytes.try_into().ok()?;
        Some(Head {
            revision: u64::from_be_bytes(bytes[..8].try_into().ok()?),
            day: u32::from_be_bytes(bytes[8..].try_into().ok()?),
        })
    }
}

/// The writer's own things.
pub(super) struct Writer {
    pub(super) tree: ::sled::Tree,
    pub(super) sync: MakeDurable,
    pub(super) head: Head,
    /// The newest durable revision, for those who begin to watch.
    pub(super) durable: Arc<AtomicU64>,
    pub(super) watchers: Arc<Watchers>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) snapshots: Keeper,
    pub(super) witness: Witness,
    pub(super) meter: Meter,
}

/// What a batch has changed so far: a key's new revision, or `None` where it was deleted. Later
/// commits of the same batch are checked against it before the tree.
type Pending = HashMap<Vec<u8>, Option<u64>>;

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
        let mut queue = Vec::with_capacity(MAX_BATCH);
        while self.requests.blocking_recv_many(&mut queue, MAX_BATCH) > 0 {
            let (mut closing, mut asks) = (Vec::new(), Vec::new());
            let mut commits = Vec::with_capacity(queue.len());
            for request in queue.drain(..) {
                match request {
                    Request::Commit(commit, done) => commits.push((commit, done)),
                    Request::Snapshot(ask) => asks.push(ask),
                    Request::Close(done) => closing.push(done),
                }
            }
            self.write(commits);
            for ask in asks {
                self.snapshots.answer(ask, &self.tree, self.head);
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
    fn write(&mut self, commits: Vec<(Commit, Done)>) {
        let mut batch = ::sled::Batch::default();
        let mut pending = Pending::new();
        let mut applied = Vec::with_capacity(commits.len());
        let day = today().max(self.head.day);
        let mut head = Head { day, ..self.head };
        for (commit, done) in commits {
            match self.check(&commit, &pending) {
                // It saw what this batch, or an earlier one, has applied: it is answered once that
                // is durable, and an earlier one is.
                Ok(()) if commit.ops.is_empty() => applied.push((Vec::new(), head.revision, done)),
                Ok(()) => {
                    head.revision += 1;
                    let keys = stage(&commit, head, &mut batch, &mut pending);
                    applied.push((keys, head.revision, done));
                }
                Err(error) => {
                    let _ = done.send(Err(error));
                }
            }
        }
        if !pending.is_empty() {
            let began = Instant::now();
            batch.insert(HEAD_KEY, &head.encode());
            let kept = self.snapshots.keep(&self.tree, pending.keys());
            if let Err(error) = kept.and_then(|()| self.make_durable(batch)) {
                end(&error, applied.into_iter().map(|(_, _, done)| done));
            }
            self.head = head;
            self.durable.store(head.revision, Ordering::Release);
            self.witness.note(head.revision);
            self.meter.batch(applied.len(), began.elapsed());
        }
        for (keys, revision, done) in applied {
            self.watchers.tell(keys.iter().map(Vec::as_slice), revision);
            // The asker may have gone away; what it asked for is done all the same.
            let _ = done.send(Ok(revision));
        }
    }

    fn make_durable(&mut self, batch: ::sled::Batch) -> Result<(), StoreError> {
        self.tree.apply_batch(batch).map_err(StoreError::Engine)?;
        self.tree.flush().map_err(StoreError::Engine)?;
        (self.sync)()
    }

    /// Whether the commit is within limits and its preconditions hold.
    fn check(&self, commit: &Commit, pending: &Pending) -> Result<(), StoreError> {
        within_limits(commit)?;
        for (key, expect) in &commit.expect {
            let stands = match pending.get(key) {
                Some(&revision) => revision,
                None => {
                    let value = self.tree.get(data_key(key)).map_err(StoreError::Engine)?;
                    value.map(|value| split(&value).0)
                }
            };
            let holds = match expect {
                Expect::Absent => stands.is_none(),
                Expect::Revision(revision) => stands == Some(*revision),
            };
            if !holds {
                return Err(StoreError::Conflict);
            }
        }
        Ok(())
    }
}

/// Refuses what is not durable and ends the process. After a failed sync nobody knows what is on
/// the disk: another try could succeed and acknowledge what is lost. A restart reads what is there.
fn end(error: &StoreError, asked: impl Iterator<Item = Done>) -> ! {
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

/// Adds the commit to the batch; answers the keys that it touches.
fn stage(
    commit: &Commit,
    head: Head,
    batch: &mut ::sled::Batch,
    pending: &mut Pending,
) -> Vec<Vec<u8>> {
    let mut index = 0;
    let mut keys = Vec::with_capacity(commit.ops.len());
    for op in &commit.ops {
        let key = match op {
            Op::Put(key, value) => {
                batch.insert(data_key(key), join(head.revision, value));
                pending.insert(key.clone(), Some(head.revision));
                key.clone()
            }
            Op::Delete(key) => {
                batch.remove(data_key(key));
                pending.insert(key.clone(), None);
                key.clone()
            }
            Op::Append(prefix, value) => {
                let position = Position {
                    day: head.day,
                    revision: head.revision,
                    index,
                };
                // MAX_OPS is below u16::MAX, so the index does not wrap.
                index += 1;
                let mut key = prefix.clone();
                key.extend_from_slice(&position.encode());
                batch.insert(data_key(&key), join(head.revision, value));
                pending.insert(key.clone(), Some(head.revision));
                key
            }
        };
        keys.push(key);
    }
    keys
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
