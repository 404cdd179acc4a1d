//! Group commit: what many have decided becomes durable in one transaction, in the order in which it
//! was decided. Knows nothing of disks.
//!
//! One thread writes one batch after the other; the next gathers meanwhile. Tasks and threads wait for
//! the batch that theirs is in, and only they are woken by its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use futures_executor::block_on;
use tokio::sync::SetOnce;

/// A batch failed, and with it all that was decided after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// What becomes of one batch; a clone tells the same.
#[derive(Clone, Debug, Default)]
pub struct Place(Arc<SetOnce<Result<(), Failed>>>);

impl Place {
    /// Of what is durable already.
    #[must_use]
    pub fn durable() -> Place {
        let place = Place::default();
        place.becomes(Ok(()));
        place
    }

    /// Whether what was put there is durable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.0.get() == Some(&Ok(()))
    }

    /// Whether it failed: then it was handed back, or waits for [`Group::take_failed`].
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.0.get() == Some(&Err(Failed))
    }

    /// Waits until it is durable. Whoever gives up waiting changes nothing about it.
    ///
    /// # Errors
    /// It failed: nothing of its batch, nor of what was put after it, is durable.
    pub async fn settled(&self) -> Result<(), Failed> {
        *self.0.wait().await
    }

    /// The same on a thread that may wait.
    ///
    /// # Errors
    /// As [`Place::settled`].
    pub fn wait(&self) -> Result<(), Failed> {
        block_on(self.settled())
    }

    fn becomes(&self, outcome: Result<(), Failed>) {
        // A batch ends once.
        let _ = self.0.set(outcome);
    }
}

#[derive(Debug)]
struct State<T> {
    /// The batch that gathers.
    open: Vec<T>,
    /// Its place.
    place: Place,
    /// The place of what was put last.
    last: Place,
    /// The batch that gathers is to be written.
    wanted: bool,
    /// The writer waits until one is.
    idle: bool,
    /// The writer is to end.
    over: bool,
    /// What failed, in order, until it is taken. Meanwhile all that is put joins it: it was decided
    /// on top.
    failed: Vec<T>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    /// Wakes the writer.
    called: Condvar,
}

/// What waits to be durable, and the thread that makes it so. When it is dropped, what is to be
/// written is written first.
#[derive(Debug)]
pub struct Group<T> {
    shared: Arc<Shared<T>>,
    writer: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Group<T> {
    /// Starts a writer that writes batches with `write`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start<E>(
        write: impl FnMut(&[T]) -> Result<(), E> + Send + 'static,
    ) -> std::io::Result<Self> {
        let state = State {
            open: Vec::new(),
            place: Place::default(),
            last: Place::durable(),
            wanted: false,
            idle: false,
            over: false,
            failed: Vec::new(),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            called: Condvar::new(),
        });
        let writing = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("commits".to_owned())
            .spawn(move || writing.run(write))?;
        Ok(Group {
            shared,
            writer: Some(writer),
        })
    }
}

impl<T> Group<T> {
    /// Puts something behind all that was put before. The caller's own lock makes the order.
    pub fn put(&self, one: T) -> Place {
        let mut state = self.shared.state();
        if state.failed.is_empty() {
            state.open.push(one);
            state.last = state.place.clone();
        } else {
            state.failed.push(one);
        }
        state.last.clone()
    }

    /// The place of what was put last: once it is durable, all is that was put before.
    pub fn last(&self) -> Place {
        self.shared.state().last.clone()
    }

    /// What failed, in order. Who takes it makes up for all of it before anything new is put.
    pub fn take_failed(&self) -> Vec<T> {
        std::mem::take(&mut self.shared.state().failed)
    }

    /// Has all that was put be written, as soon as the batch before is.
    pub fn write(&self) {
        let mut state = self.shared.state();
        state.wanted = !state.open.is_empty();
        if state.wanted && state.idle {
            self.shared.called.notify_one();
        }
    }
}

impl<T> Drop for Group<T> {
    fn drop(&mut self) {
        self.shared.state().over = true;
        self.shared.called.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<E>(&self, mut write: impl FnMut(&[T]) -> Result<(), E>) {
        let mut state = self.state();
        loop {
            if !state.wanted {
                if state.over {
                    // Nobody asked for what is left: it is not to be waited for either.
                    state.place.becomes(Err(Failed));
                    return;
                }
                state.idle = true;
                state = self
                    .called
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                state.idle = false;
                continue;
            }
            // At once: a `sched_yield` would bring some more into the batch, and since Linux 6.18 give away a
            // slice of 3 ms where anybody else has work for this processor (docs/benchmarks.md).
            state.wanted = false;
            let batch = std::mem::take(&mut state.open);
            let place = std::mem::take(&mut state.place);
            drop(state);
            // A batch whose writing panics has failed, and the next is another one.
            let written = catch_unwind(AssertUnwindSafe(|| write(&batch).is_ok()));
            if written.unwrap_or(false) {
                place.becomes(Ok(()));
                drop(batch);
                state = self.state();
                continue;
            }
            state = self.state();
            // What was decided on top of it fails with it. `last` says so by its place.
            let open = std::mem::take(&mut state.open);
            state.failed.extend(batch.into_iter().chain(open));
            state.wanted = false;
            let on_top = std::mem::take(&mut state.place);
            // Who hears of it finds what failed.
            place.becomes(Err(Failed));
            on_top.becomes(Err(Failed));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::time::Duration;

    use super::*;

    /// Has it written, and waits for it.
    fn settle<T>(group: &Group<T>, place: &Place) -> Result<(), Failed> {
        group.write();
        place.wait()
    }

    /// A group, the batches that its writer begins with, and how it is told what becomes of them.
    type Told = (
        Group<u32>,
        mpsc::Receiver<Vec<u32>>,
        mpsc::Sender<Result<(), ()>>,
    );

    fn told() -> Told {
        let (begun, begins) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let write = move |batch: &[u32]| {
            begun.send(batch.to_vec()).unwrap();
            told.recv().unwrap()
        };
        (Group::start(write).unwrap(), begins, tell)
    }

    #[test]
    fn many_become_durable_in_one_go_and_in_their_order() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let batches = Arc::new(AtomicUsize::new(0));
        let (into, count) = (Arc::clone(&written), Arc::clone(&batches));
        let group = Group::start(move |batch: &[u32]| {
            count.fetch_add(1, Ordering::Relaxed);
            into.lock().unwrap().extend_from_slice(batch);
            // A disk takes a while, in which others decide.
            std::thread::sleep(Duration::from_millis(1));
            Ok::<_, ()>(())
        })
        .unwrap();
        let decided = Mutex::new(0_u32);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let (one, place) = {
                            let mut decided = decided.lock().unwrap();
                            *decided += 1;
                            (*decided, group.put(*decided))
                        };
                        settle(&group, &place).unwrap();
                        assert!(written.lock().unwrap().contains(&one), "answered too soon");
                    }
                });
            }
        });
        assert_eq!(*written.lock().unwrap(), (1..=400).collect::<Vec<_>>());
        assert!(batches.load(Ordering::Relaxed) < 400, "never two at once");
    }

    #[test]
    fn what_was_decided_on_top_of_a_failure_fails_with_it() {
        let (group, begins, tell) = told();
        let first = group.put(1);
        group.write();
        assert_eq!(begins.recv().unwrap(), [1]);
        // While the first is written, a second is decided.
        let second = group.put(2);
        group.write();
        tell.send(Err(())).unwrap();
        assert_eq!(first.wait(), Err(Failed));
        assert_eq!(second.wait(), Err(Failed));
        // And a third before anybody has made up for it; the disk is well again.
        let third = group.put(3);
        assert_eq!(settle(&group, &third), Err(Failed));
        assert_eq!(settle(&group, &group.last()), Err(Failed));
        assert_eq!(group.take_failed(), [1, 2, 3], "in order");

        let fourth = group.put(4);
        tell.send(Ok(())).unwrap();
        assert_eq!(settle(&group, &fourth), Ok(()));
        assert_eq!(first.wait(), Err(Failed), "for good");
        assert_eq!(begins.recv().unwrap(), [4]);
        assert!(begins.try_recv().is_err(), "and nothing else was written");
    }

    #[test]
    fn a_writer_that_panics_leaves_nobody_waiting() {
        let panics = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&panics);
        let group = Group::start(move |_: &[u32]| {
            assert!(!told.load(Ordering::Relaxed), "told to");
            Ok::<_, ()>(())
        })
        .unwrap();
        let place = group.put(1);
        assert_eq!(settle(&group, &place), Err(Failed));
        assert_eq!(group.take_failed(), [1]);
        panics.store(false, Ordering::Relaxed);
        let place = group.put(2);
        assert_eq!(settle(&group, &place), Ok(()), "and goes on");
    }

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_batch_wakes_those_that_wait_for_it_and_nobody_else() {
        let (group, begins, tell) = told();
        let first = group.put(1);
        group.write();
        begins.recv().unwrap();
        let second = group.put(2);
        group.write();
        let woken = [1, 2].map(|_| Arc::new(Woken(AtomicUsize::new(0))));
        let wakers = woken.clone().map(Waker::from);
        let mut waits = [&first, &second].map(|place| Box::pin(place.settled()));
        for (wait, waker) in waits.iter_mut().zip(&wakers) {
            assert!(
                wait.as_mut()
                    .poll(&mut Context::from_waker(waker))
                    .is_pending()
            );
        }
        tell.send(Ok(())).unwrap();
        assert_eq!(begins.recv().unwrap(), [2], "the first is durable");
        let counts = || {
            woken
                .each_ref()
                .map(|woken| woken.0.load(Ordering::Relaxed))
        };
        assert_eq!(counts(), [1, 0]);
        let [mut first, second] = waits;
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(first.as_mut().poll(&mut context), Poll::Ready(Ok(())));
        // Whoever gives up waiting changes nothing about it.
        drop(second);
        tell.send(Ok(())).unwrap();
        assert_eq!(group.last().wait(), Ok(()));
        assert_eq!(counts(), [1, 0]);
    }

    #[test]
    fn in_the_end_what_was_asked_for_is_written_and_the_rest_fails() {
        for asked in [true, false] {
            let (group, begins, tell) = told();
            let place = group.put(1);
            if asked {
                group.write();
                tell.send(Ok(())).unwrap();
            }
            drop(group);
            assert_eq!(place.wait().is_ok(), asked);
            assert_eq!(begins.recv().is_ok(), asked);
        }
    }
}
