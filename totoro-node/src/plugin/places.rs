//! Places for connections, and who gives way when all are taken.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};

/// Connections that have not shown the secret, by their numbers: the oldest first.
#[derive(Default)]
struct Unproven(Mutex<BTreeMap<u64, AbortHandle>>);

impl Unproven {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All places, and the connections that have them.
pub(super) struct Places {
    free: Arc<Semaphore>,
    unproven: Arc<Unproven>,
    tasks: JoinSet<()>,
    next: u64,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Places {
            free: Arc::new(Semaphore::new(count)),
            unproven: Arc::default(),
            tasks: JoinSet::new(),
            next: 0,
        }
    }

    /// Waits for a place for one that has come. When all are taken, the oldest connection that has not shown
    /// the secret is ended: any local user can open as many as they like, and frps must get in.
    pub(super) async fn free(&mut self) -> Result<OwnedSemaphorePermit, AcquireError> {
        while self.tasks.try_join_next().is_some() {}
        if let Ok(held) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(held);
        }
        let oldest = self.unproven.lock().pop_first();
        if let Some((_, oldest)) = oldest {
            tracing::debug!("a plugin connection without the secret gives way");
            oldest.abort();
        }
        // Its place is free when it is gone: there are never more than there are places.
        Arc::clone(&self.free).acquire_owned().await
    }

    /// Serves a connection in this place.
    pub(super) fn serve<S>(&mut self, held: OwnedSemaphorePermit, serve: impl FnOnce(Place) -> S)
    where
        S: Future<Output = ()> + Send + 'static,
    {
        self.next += 1;
        let place = Place {
            number: self.next,
            unproven: Arc::clone(&self.unproven),
            proven: AtomicBool::new(false),
            _held: held,
        };
        // Locked until it is there: it may prove itself, or end, before this returns.
        let mut unproven = self.unproven.lock();
        unproven.insert(self.next, self.tasks.spawn(serve(place)));
    }

    /// Waits until all connections have ended.
    pub(super) async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// One connection's place, free again when this is dropped.
pub(super) struct Place {
    number: u64,
    unproven: Arc<Unproven>,
    proven: AtomicBool,
    _held: OwnedSemaphorePermit,
}

impl Place {
    /// The secret was shown: from now on this place is given to nobody else. `false` when it has been
    /// already, and the connection is about to end: nothing may be decided for it any more.
    pub(super) fn prove(&self) -> bool {
        if !self.is_proven() && self.unproven.lock().remove(&self.number).is_some() {
            self.proven.store(true, Ordering::Relaxed);
        }
        self.is_proven()
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unproven.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A place, as its connection has it.
    async fn take(places: &mut Places) -> Arc<Place> {
        let within = tokio::time::timeout(Duration::from_secs(60), places.free());
        let held = within.await.expect("a free place").unwrap();
        let (give, given) = tokio::sync::oneshot::channel();
        places.serve(held, |place| {
            let place = Arc::new(place);
            let _ = give.send(Arc::clone(&place));
            async move {
                std::future::pending::<()>().await;
                drop(place);
            }
        });
        given.await.unwrap()
    }

    #[tokio::test]
    async fn a_secret_that_comes_too_late_proves_nothing() {
        let mut places = Places::new(2);
        let (first, late) = (take(&mut places).await, take(&mut places).await);
        assert!(first.prove() && first.prove(), "with each request anew");
        let unproven = Arc::clone(&places.unproven);
        let (next, ()) = tokio::join!(biased; take(&mut places), async {
            assert!(unproven.lock().is_empty(), "it was chosen to give way");
            assert!(!late.prove());
            drop(late);
        });
        assert!(next.prove() && first.prove());
    }
}
