//! For tests: a disk that fails when it is told to.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{Database, StorageBackend};

use super::{STATE, Store};

/// What a disk does; a clone tells the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// It fails while this is set.
    pub(super) fails: Arc<AtomicBool>,
    /// Its next sync is done, and said to have failed.
    pub(super) late: Arc<AtomicBool>,
    /// It fails after such a sync.
    pub(super) then_fails: bool,
}

#[derive(Debug)]
struct Disk {
    file: FileBackend,
    faults: Faults,
}

impl Disk {
    fn works(&self) -> io::Result<&FileBackend> {
        if self.faults.fails.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk fails"));
        }
        Ok(&self.file)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.works()?.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.works()?.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.works()?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.works()?.sync_data()?;
        if self.faults.late.swap(false, Ordering::Relaxed) {
            let then_fails = self.faults.then_fails;
            self.faults.fails.store(then_fails, Ordering::Relaxed);
            return Err(io::Error::other("the disk fails late"));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.works()?.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

/// A store on such a disk.
pub(super) fn on(dir: &Path, faults: &Faults) -> Store {
    let (path, faults) = (dir.join(STATE), faults.clone());
    let open = move || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let disk = Disk {
            file: FileBackend::new(options.open(&path)?)?,
            faults: faults.clone(),
        };
        Ok(Database::builder().create_with_backend(disk)?)
    };
    Store::open_by(dir, Box::new(open)).unwrap()
}

/// A store whose disk fails while the flag is set.
pub(crate) fn flaky(dir: &Path) -> (Store, Arc<AtomicBool>) {
    let faults = Faults::default();
    (on(dir, &faults), faults.fails)
}
