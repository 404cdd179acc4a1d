//! Group commit: what many threads have decided becomes durable in one transaction, in the order in
//! which it was decided. Knows nothing of disks.
//!
//! There is no thread of its own: of those who wait, one writes for all that wait with it, and the
//! next batch gathers meanwhile.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The outcomes of a [`Place`]; 0 = none yet.
const DURABLE: u8 = 1;
const FAILED: u8 = 2;

/// What becomes of one batch; a clone tells the same.
#[derive(Clone, Debug, Default)]
pub struct Place(Arc<AtomicU8>);

impl Place {
    /// Whether what was put there is durable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.is(DURABLE)
    }

    /// Whether it failed: then it was handed back, or waits for [`Group::take_failed`].
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.is(FAILED)
    }

    fn is(&self, outcome: u8) -> bool {
        self.0.load(Ordering::Acquire) == outcome
    }

    fn becomes(&self, outcome: u8) {
        self.0.store(outcome, Ordering::Release);
    }
}

/// A batch failed, and with it all that was decided after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

#[derive(Debug)]
struct State<T> {
    /// The batch that gathers.
    open: Vec<T>,
    /// Its place.
    place: Place,
    /// The place of what was put last.
    last: Place,
    /// Somebody writes.
    busy: bool,
    /// What failed, in order, until it is taken. Meanwhile all that is put joins it: it was decided
    /// on top.
    failed: Vec<T>,
}

/// What waits to be durable.
#[derive(Debug)]
pub struct Group<T> {
    state: Mutex<State<T>>,
    turned: Condvar,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        let last = Place::default();
        last.becomes(DURABLE);
        let state = State {
            open: Vec::new(),
            place: Place::default(),
            last,
            busy: false,
            failed: Vec::new(),
        };
        Group {
            state: Mutex::new(state),
            turned: Condvar::new(),
        }
    }
}

impl<T> Group<T> {
    /// Puts something behind all that was put before. The caller's own lock makes the order.
    pub fn put(&self, one: T) -> Place {
        let mut state = self.state();
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
        self.state().last.clone()
    }

    /// What failed, in order. Who takes it makes up for all of it before anything new is put.
    pub fn take_failed(&self) -> Vec<T> {
        std::mem::take(&mut self.state().failed)
    }

    /// Waits until a place is durable; writes the batch itself when nobody else does.
    ///
    /// # Errors
    /// It failed: nothing of its batch, nor of what was put after it, is durable.
    pub fn settle<E>(
        &self,
        place: &Place,
        write: impl Fn(&[T]) -> Result<(), E>,
    ) -> Result<(), Failed> {
        let mut state = self.state();
        loop {
            if place.is_durable() {
                return Ok(());
            }
            if place.has_failed() {
                return Err(Failed);
            }
            if state.busy {
                state = self
                    .turned
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let batch = std::mem::take(&mut state.open);
            let writes = Writes {
                group: self,
                place: std::mem::take(&mut state.place),
                batch,
                done: false,
            };
            state.busy = true;
            drop(state);
            let written = write(&writes.batch).is_ok();
            writes.end(written);
            state = self.state();
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch while it is written. One whose writer panicked has failed: the others must not wait for
/// ever.
struct Writes<'a, T> {
    group: &'a Group<T>,
    place: Place,
    batch: Vec<T>,
    done: bool,
}

impl<T> Writes<'_, T> {
    fn end(mut self, written: bool) {
        self.done = written;
    }
}

impl<T> Drop for Writes<'_, T> {
    fn drop(&mut self) {
        let mut state = self.group.state();
        state.busy = false;
        let batch = std::mem::take(&mut self.batch);
        if self.done {
            self.place.becomes(DURABLE);
        } else {
            self.place.becomes(FAILED);
            // Decided on top of what failed.
            let open = std::mem::take(&mut state.open);
            std::mem::take(&mut state.place).becomes(FAILED);
            state.failed.extend(batch.into_iter().chain(open));
            // Nothing but what failed was put since: `last` says so by its place.
        }
        drop(state);
        self.group.turned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use super::*;

    #[test]
    fn many_become_durable_in_one_go_and_in_their_order() {
        let group = Group::default();
        let written = Mutex::new(Vec::new());
        let batches = AtomicUsize::new(0);
        let decided = Mutex::new(0_u32);
        let write = |batch: &[u32]| {
            batches.fetch_add(1, Ordering::Relaxed);
            written.lock().unwrap().extend_from_slice(batch);
            // A disk takes a while, in which others decide.
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok::<_, ()>(())
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let (one, place) = {
                            let mut decided = decided.lock().unwrap();
                            *decided += 1;
                            (*decided, group.put(*decided))
                        };
                        group.settle(&place, write).unwrap();
                        assert!(written.lock().unwrap().contains(&one), "answered too soon");
                    }
                });
            }
        });
        assert_eq!(written.into_inner().unwrap(), (1..=400).collect::<Vec<_>>());
        assert!(batches.into_inner() < 400, "never two at once");
    }

    #[test]
    fn what_was_decided_on_top_of_a_failure_fails_with_it() {
        let group = Group::default();
        let works = AtomicBool::new(false);
        let durable = Mutex::new(Vec::new());
        let write = |batch: &[u32]| {
            if works.load(Ordering::Relaxed) {
                durable.lock().unwrap().extend_from_slice(batch);
                return Ok(());
            }
            Err(())
        };
        let first = group.put(1);
        // While the first is written, a second is decided.
        let second = Mutex::new(None);
        let failing = |batch: &[u32]| {
            *second.lock().unwrap() = Some(group.put(2));
            write(batch)
        };
        assert_eq!(group.settle(&first, failing), Err(Failed));
        let second = second.into_inner().unwrap().unwrap();
        // And a third before anybody has made up for it; the disk is well again.
        works.store(true, Ordering::Relaxed);
        let third = group.put(3);
        assert_eq!(group.settle(&second, write), Err(Failed));
        assert_eq!(group.settle(&third, write), Err(Failed));
        assert_eq!(group.settle(&group.last(), write), Err(Failed));
        assert_eq!(group.take_failed(), [1, 2, 3], "in order");

        let fourth = group.put(4);
        assert_eq!(group.settle(&fourth, write), Ok(()));
        assert_eq!(group.settle(&first, write), Err(Failed), "for good");
        assert_eq!(*durable.lock().unwrap(), [4]);
    }

    #[test]
    fn a_writer_that_panics_leaves_nobody_waiting() {
        let group = Group::default();
        let place = group.put(1);
        let panics = |_: &[i32]| -> Result<(), ()> { panic!("told to") };
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = group.settle(&place, panics);
        }));
        assert!(unwound.is_err());
        assert_eq!(group.settle(&place, |_| Ok::<_, ()>(())), Err(Failed));
        assert_eq!(group.take_failed(), [1]);
    }
}
