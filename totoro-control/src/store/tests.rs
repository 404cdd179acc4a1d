//! The suite on each backend, and what only sled must do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::mem::{MemStore, State};
use super::suite::{Backend, suite};
use super::wal::Wal;
use super::writer::Bounds;
use super::*;

struct Sled(tempfile::TempDir);

impl Backend for Sled {
    type Store = SledStore;

    fn new() -> Self {
        Sled(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> SledStore {
        open(self.0.path())
    }
}

/// The same, with so little room in memory that nearly each batch sends a layer to sled, while the
/// next ones stand over it.
struct Cramped(tempfile::TempDir);

/// When that one's layers go to sled.
pub(super) const CRAMPED: Bounds = Bounds {
    layer: 500,
    log: 2000,
};

impl Backend for Cramped {
    type Store = SledStore;

    fn new() -> Self {
        Cramped(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> SledStore {
        let open = || SledStore::open_with(self.0.path(), 4 << 20, CRAMPED, Box::new(Wal::sync));
        wait_for(open).unwrap()
    }
}

struct Mem(Arc<Mutex<State>>);

impl Backend for Mem {
    type Store = MemStore;

    fn new() -> Self {
        Mem(Arc::default())
    }

    fn open(&self) -> MemStore {
        MemStore::open(&self.0)
    }
}

#[test]
fn sled_passes_the_suite() {
    suite::<Sled>();
}

#[test]
fn sled_passes_the_suite_while_layers_move() {
    suite::<Cramped>();
}

#[test]
fn memory_passes_the_suite() {
    suite::<Mem>();
}

/// Opens a store that may just have been dropped: a process that another test starts holds a copy of
/// its lock from its fork until its exec.
pub(super) fn open(dir: &std::path::Path) -> SledStore {
    try_open(dir).unwrap()
}

/// As [`open`], for a store that may be refused.
pub(super) fn try_open(dir: &std::path::Path) -> Result<SledStore, StoreError> {
    wait_for(|| SledStore::open(dir, 4 << 20))
}

fn wait_for(open: impl Fn() -> Result<SledStore, StoreError>) -> Result<SledStore, StoreError> {
    for _ in 0..1000 {
        match open() {
            Err(StoreError::InUse { .. }) => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened,
        }
    }
    panic!("the store is not given back")
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    assert!(matches!(
        SledStore::open(dir.path(), 4 << 20),
        Err(StoreError::InUse { .. })
    ));
    drop(first);

    let foreign = tempfile::tempdir().unwrap();
    let db = ::sled::open(foreign.path()).unwrap();
    db.insert(b"x", b"y").unwrap();
    drop(db);
    assert!(matches!(
        SledStore::open(foreign.path(), 4 << 20),
        Err(StoreError::Unusable { .. })
    ));

    let newer = tempfile::tempdir().unwrap();
    let db = ::sled::open(newer.path()).unwrap();
    db.insert(b"mformat", b"totoro-control 3").unwrap();
    drop(db);
    let error = SledStore::open(newer.path(), 4 << 20)
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("schema 3"), "{error}");
}

#[tokio::test]
async fn one_snapshot_at_a_time_and_none_that_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = store.snapshot().await.unwrap();
    assert!(matches!(store.snapshot().await, Err(StoreError::Busy)));
    drop(first);
    assert!(store.snapshot().await.is_ok());
}

#[test]
fn prefixes_end_after_all_they_begin() {
    assert_eq!(prefix_end(b"a/"), b"a0");
    assert_eq!(prefix_end(&[b'a', 0xff]), b"b");
    assert_eq!(prefix_end(&[0xff]).len(), MAX_KEY);
}
