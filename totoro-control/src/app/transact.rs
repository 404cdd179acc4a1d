//! One change: read, decide, commit; again when others were first.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use super::{App, Failure};
use crate::audit;
use crate::store::{Commit, StoreError, Tx};

/// How often a change is tried again when others were first.
const ATTEMPTS: u32 = 32;
/// How long the store's writer may take for nothing.
const WRITER_TIME: Duration = Duration::from_secs(1);
/// How many queues there are. Those who change different things share one by chance, and then wait for
/// each other's disk for nothing: of 32 at once 12 would in 64 queues, in 4096 two do every eighth time.
const QUEUES: usize = 4096;

/// Queues for those who change the same thing at once: without them each would redo its work for
/// each other's commit, and the slowest would never be first.
pub(super) struct Turns {
    hash: RandomState,
    queues: Box<[Mutex<()>]>,
}

impl Default for Turns {
    fn default() -> Self {
        Turns {
            hash: RandomState::new(),
            queues: (0..QUEUES).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Turns {
    /// Waits for the turn in this key's queue.
    pub(super) async fn of(&self, about: &[u8]) -> MutexGuard<'_, ()> {
        let queue = self.hash.hash_one(about) % QUEUES as u64;
        self.queues[usize::try_from(queue).unwrap_or(0)]
            .lock()
            .await
    }
}

/// Runs to its end what follows a commit, though nobody waits for it any more: with a connection hyper
/// drops the futures of its requests, and a client may hang up before its answer.
///
/// # Errors
/// Those of `work`.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The process ends, and the store before it.
            Err(_) => Err(StoreError::Closed.into()),
        },
    }
}

impl App {
    /// Runs a change until its commit is applied: `work` reads and decides, and is run again when
    /// what it read has changed before the commit, or before it refused: a part of what it read may
    /// have been older than the rest. Answers what `work` did and the commit's revision, 0 when there
    /// was nothing to write. Either way all that `work` saw is durable then.
    ///
    /// # Errors
    /// What `work` refuses, and what the store fails with.
    pub async fn transact<T>(
        &self,
        mut work: impl FnMut(&mut Tx<'_>) -> Result<T, Failure>,
    ) -> Result<(T, u64), Failure> {
        let mut turn = None;
        for _ in 0..ATTEMPTS {
            let mut tx = Tx::new(&*self.store);
            let done = work(&mut tx);
            let commit = tx.into_commit();
            // What is read first is what the change is about.
            let about = commit.expect.first().map(|(key, _)| key.clone());
            match done {
                Ok(done) => {
                    let wrote = !commit.ops.is_empty();
                    if !wrote && about.is_none() {
                        return Ok((done, 0));
                    }
                    match self.store.commit(commit).await {
                        Ok(revision) => return Ok((done, if wrote { revision } else { 0 })),
                        Err(StoreError::Conflict) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(failed @ (Failure::Store(_) | Failure::Trail(_) | Failure::Ring(_))) => {
                    return Err(failed);
                }
                Err(refused) => {
                    if commit.holds(|key| self.store.revision(key))? {
                        return Err(refused);
                    }
                }
            }
            if turn.is_none() {
                turn = Some(self.turns.of(&about.unwrap_or_default()).await);
            }
        }
        Err(StoreError::Conflict.into())
    }

    /// Whether the store's writer lives and its disk keeps up.
    ///
    /// # Errors
    /// When the store has failed.
    pub async fn writes(&self) -> Result<bool, StoreError> {
        // Nothing to write, but it goes through the writer.
        let nothing = self.store.commit(Commit::default());
        match tokio::time::timeout(WRITER_TIME, nothing).await {
            Ok(written) => written.map(|_| true),
            Err(_) => Ok(false),
        }
    }

    /// Whether events get from the store into segments.
    #[must_use]
    pub fn moves_events(&self) -> bool {
        self.trail.figures().moving
    }

    /// Adds one event to the trail.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn record(&self, event: audit::Draft) -> Result<(), Failure> {
        // It stands on nothing that it read, so nobody can be first.
        let mut tx = Tx::new(&*self.store);
        audit::record(&mut tx, event, self.now_ms())?;
        self.store.commit(tx.into_commit()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn who_changes_something_else_need_not_wait() {
        let turns = Turns::default();
        let turn = |about: u32| turns.of(&about.to_be_bytes()).now_or_never();
        let mine = turn(7).unwrap();
        assert!(turn(7).is_none());
        drop(mine);
        let held: Vec<_> = (0..64).filter_map(turn).collect();
        // By chance one of them is behind another now and then, and seven once in a million runs.
        assert!(held.len() >= 58, "{} of 64 had to wait", 64 - held.len());
    }
}
