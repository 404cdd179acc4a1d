//! For tests: a disk that fails when it is told to.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a disk does; a clone tells the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// It fails while this is set.
    pub(crate) fails: Arc<AtomicBool>,
    /// Its next sync is done, and said to have failed.
    pub(crate) late: Arc<AtomicBool>,
    /// It fails after such a sync.
    pub(crate) then_fails: bool,
    /// Nothing on it can get longer.
    pub(crate) full: Arc<AtomicBool>,
}

impl Faults {
    pub(super) fn works(&self) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk fails"));
        }
        Ok(())
    }

    pub(super) fn grows(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn synced(&self) -> io::Result<()> {
        if self.late.swap(false, Ordering::Relaxed) {
            self.fails.store(self.then_fails, Ordering::Relaxed);
            return Err(io::Error::other("the disk fails late"));
        }
        Ok(())
    }
}
