//! A consistent state of the store while it goes on changing.
//!
//! sled has no snapshots. The writer, which is the only one to change anything, reads the state
//! part by part between its batches, and before a batch overwrites what was not read yet it keeps
//! the old value aside. Memory is one part and what has changed meanwhile, up to a bound; nobody
//! waits longer than one part takes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::view::View;
use super::writer::{Head, Request};
use super::{Entry, Snapshot, SnapshotHead, StoreError, Versioned, migrate};

/// Entries looked at for one part at most.
const PART: usize = 2048;
/// Entries looked at between two looks at the clock.
const STEP: usize = 256;
/// How long the writer reads one part: commits wait for it. Pages that have changed often are slow
/// to read, so that the number of entries alone bounds no time.
const PART_TIME: Duration = Duration::from_millis(10);
/// What may be kept aside, bytes. Beyond it the snapshot is given up, never the store.
const MAX_KEPT: usize = 64 << 20;

/// What the writer is asked about snapshots.
pub(super) enum Ask {
    /// Begin one; it lives as long as the token.
    Begin(Weak<()>, oneshot::Sender<Result<Head, StoreError>>),
    /// The next part; `None` at the end.
    Next(oneshot::Sender<Result<Option<Vec<Entry>>, StoreError>>),
}

/// The writer's side: at most one snapshot at a time, which bounds the memory.
#[derive(Default)]
pub(super) struct Keeper {
    live: Option<Live>,
}

struct Live {
    token: Weak<()>,
    /// Everything up to this key was read.
    read: Option<Vec<u8>>,
    /// What stood under keys that were changed before they were read.
    kept: BTreeMap<Vec<u8>, Option<Versioned>>,
    /// What is kept now: what was handed out is the reader's.
    kept_bytes: usize,
    /// All of it was read.
    done: bool,
}

impl Keeper {
    /// Before a batch changes these keys: keeps what is not read yet.
    pub(super) fn keep<'a>(
        &mut self,
        view: &View,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), StoreError> {
        self.live.take_if(|live| live.token.strong_count() == 0);
        let Some(live) = self.live.as_mut().filter(|live| !live.done) else {
            return Ok(());
        };
        for key in keys {
            if live.read.as_deref() >= Some(key) || live.kept.contains_key(key) {
                continue;
            }
            let old = view.get(key)?;
            live.kept_bytes += weight(key, old.as_ref());
            live.kept.insert(key.to_vec(), old);
        }
        if live.kept_bytes > MAX_KEPT {
            tracing::warn!("a backup was too slow for what changed meanwhile: given up");
            self.live = None;
        }
        Ok(())
    }

    /// Answers, between two batches: all that can be read is durable.
    pub(super) fn answer(&mut self, ask: Ask, view: &View, head: Head) {
        match ask {
            Ask::Begin(token, done) => {
                let held = |live: &Live| live.token.strong_count() > 0;
                let answer = if self.live.as_ref().is_some_and(held) {
                    Err(StoreError::Busy)
                } else {
                    self.live = Some(Live {
                        token,
                        read: None,
                        kept: BTreeMap::new(),
                        kept_bytes: 0,
                        done: false,
                    });
                    Ok(head)
                };
                let _ = done.send(answer);
            }
            Ask::Next(done) => {
                let part = match &mut self.live {
                    Some(live) => live.part(view),
                    None => Err(StoreError::Overtaken),
                };
                let _ = done.send(part);
            }
        }
    }
}

/// What an entry that is kept aside takes, bytes: with what it takes in the map, roughly.
fn weight(key: &[u8], old: Option<&Versioned>) -> usize {
    key.len() + old.map_or(0, |old| old.value.len()) + 64
}

impl Live {
    /// The next part as it stood at the beginning.
    fn part(&mut self, view: &View) -> Result<Option<Vec<Entry>>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let (mut part, mut seen, began) = (Vec::new(), 0, Instant::now());
        while seen < PART && began.elapsed() < PART_TIME {
            // The first key after what was read.
            let read = self.read.as_ref();
            let from = read.map_or_else(Vec::new, |read| [&read[..], &[0]].concat());
            let some = view.range(&from, Bound::Unbounded, STEP, false)?;
            seen += some.len();
            let more = some.len() == STEP;
            for (key, found) in some {
                // What was deleted meanwhile comes before what still stands after it.
                while let Some(gone) = self.kept.first_entry().filter(|kept| *kept.key() < key) {
                    let (key, old) = gone.remove_entry();
                    self.kept_bytes -= weight(&key, old.as_ref());
                    part.extend(old.map(|old| (key, old)));
                }
                self.read = Some(key.clone());
                match self.kept.remove(&key) {
                    Some(old) => {
                        self.kept_bytes -= weight(&key, old.as_ref());
                        part.extend(old.map(|old| (key, old)));
                    }
                    None => part.push((key, found)),
                }
            }
            if !more {
                // Past the end only what was deleted is left.
                self.kept_bytes = 0;
                let rest = std::mem::take(&mut self.kept).into_iter();
                part.extend(rest.filter_map(|(key, old)| Some((key, old?))));
                self.done = true;
                break;
            }
        }
        Ok(Some(part))
    }
}

/// The reader's side.
pub(super) struct SledSnapshot {
    /// Dropped with the reader: then the writer keeps nothing aside any more.
    token: Arc<()>,
    head: SnapshotHead,
    requests: mpsc::Sender<Request>,
}

impl SledSnapshot {
    pub(super) async fn begin(requests: mpsc::Sender<Request>) -> Result<Self, StoreError> {
        let token = Arc::new(());
        let (done, begun) = oneshot::channel();
        let ask = Ask::Begin(Arc::downgrade(&token), done);
        let Head { revision, day } = asked(&requests, ask, begun).await?;
        Ok(SledSnapshot {
            token,
            head: SnapshotHead {
                schema: migrate::SCHEMA,
                revision,
                day,
            },
            requests,
        })
    }
}

impl Snapshot for SledSnapshot {
    fn head(&self) -> SnapshotHead {
        self.head
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Option<Vec<Entry>>, StoreError>> {
        let (done, part) = oneshot::channel();
        let token = Arc::clone(&self.token);
        async move {
            let part = asked(&self.requests, Ask::Next(done), part).await;
            drop(token);
            part
        }
        .boxed()
    }
}

async fn asked<T>(
    requests: &mpsc::Sender<Request>,
    ask: Ask,
    answer: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let sent = requests.send(Request::Snapshot(ask)).await;
    sent.map_err(|_| StoreError::Closed)?;
    answer.await.map_err(|_| StoreError::Closed)?
}

#[cfg(test)]
mod tests {
    use super::super::view::Layer;
    use super::*;

    /// All that is kept now, by the same measure.
    fn held(live: &Live) -> usize {
        let each = live.kept.iter();
        each.map(|(key, old)| weight(key, old.as_ref())).sum()
    }

    #[test]
    fn what_was_handed_out_is_not_counted_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let db = ::sled::open(dir.path()).unwrap();
        let mut layer = Layer::default();
        let key = |index: usize| format!("{index:05}").into_bytes();
        for index in 0..3 * PART {
            layer.apply(key(index), 1, Some(vec![b'v'; 100]), true);
        }
        let view = View::new((*db).clone(), layer);
        let token = Arc::new(());
        let mut keeper = Keeper::default();
        let (begin, _begun) = oneshot::channel();
        let begin = Ask::Begin(Arc::downgrade(&token), begin);
        keeper.answer(begin, &view, Head::default());
        // A new one, changed ones, and removed ones: amid the rest and past its end.
        let changes = [
            (b"00001x".to_vec(), Some(vec![])),
            (key(1), Some(vec![])),
            (key(PART + 1), Some(vec![])),
            (key(PART + 2), None),
            (key(3 * PART - 1), None),
        ];
        let keys = changes.iter().map(|(key, _)| &key[..]);
        keeper.keep(&view, keys).unwrap();
        let changes = changes.map(|(key, value)| (key, value, false));
        view.change(2, changes.to_vec());
        let live = keeper.live.as_mut().unwrap();
        assert_eq!((live.kept.len(), live.kept_bytes), (5, held(live)));
        let mut read = 0;
        while let Some(part) = live.part(&view).unwrap() {
            assert_eq!(live.kept_bytes, held(live), "after {read}");
            read += part.len();
        }
        assert_eq!(read, 3 * PART);
        assert_eq!(live.kept_bytes, 0);
    }
}
