//! The store on a real disk, and on one that fails when it is told to.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use totoro_api::wire::event::Subject;

use super::log::Sizes;
use super::log::faults::Faults;
use super::*;
use crate::spool::Spool;

/// So small that files come and go all the time.
const SMALL: Sizes = Sizes {
    file: 16 << 10,
    slack: 4 << 10,
    least: 32 << 10,
};

/// A store on such a disk.
pub(super) fn on(dir: &Path, faults: &Faults) -> Store {
    Store::open_by(dir, |dir| Log::flaky(dir, SMALL, faults)).unwrap()
}

/// A store whose disk fails while the flag is set.
pub(crate) fn flaky(dir: &Path) -> (Store, Arc<AtomicBool>) {
    let faults = Faults::default();
    (on(dir, &faults), faults.fails)
}

#[test]
fn what_was_committed_is_there_again_and_one_daemon_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut changes = Changes::default();
    changes.put(META, "a", &1u64);
    changes.put(META, "b", &2u64);
    store.commit(&changes).unwrap();
    let mut changes = Changes::default();
    changes.remove(META, "a");
    store.commit(&changes).unwrap();
    let second = Store::open(dir.path()).unwrap_err().to_string();
    assert!(second.contains("in use"), "{second}");

    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.get::<u64>(META, "a").unwrap(), None);
    assert_eq!(store.get::<u64>(META, "b").unwrap(), Some(2));
}

#[test]
fn a_disk_that_failed_once_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, disk) = flaky(dir.path());
    let put = |value: u64| {
        let mut changes = Changes::default();
        changes.put(META, "a", &value);
        store.commit(&changes)
    };
    put(1).unwrap();
    disk.store(true, Ordering::Relaxed);
    assert!(put(2).is_err());
    assert!(put(3).is_err(), "and as long as it fails");
    disk.store(false, Ordering::Relaxed);
    assert_eq!(store.get::<u64>(META, "a").unwrap(), Some(1), "all or none");
    put(4).unwrap();
    assert_eq!(store.get::<u64>(META, "a").unwrap(), Some(4));
}

fn told(changes: &mut Changes, kind: &str) {
    let subject = Subject {
        kind: kind.to_owned(),
        ..Subject::default()
    };
    changes.put(META, kind, &true);
    changes.tell(1, &subject);
}

#[test]
fn what_the_disk_took_though_its_sync_failed_is_taken_back_and_told_once() {
    for then_fails in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults {
            then_fails,
            ..Faults::default()
        };
        let store = Arc::new(on(dir.path(), &faults));
        let mut waiting = Changes::default();
        for kind in ["a", "b"] {
            told(&mut waiting, kind);
            faults.fails.store(false, Ordering::Relaxed);
            faults.late.store(true, Ordering::Relaxed);
            assert!(store.commit(&waiting).is_err());
            if then_fails {
                assert!(store.commit(&waiting).is_err(), "nor can be looked at");
            }
        }
        faults.fails.store(false, Ordering::Relaxed);
        told(&mut waiting, "c");
        store.commit(&waiting).unwrap();
        let mut other = Changes::default();
        told(&mut other, "d");
        store.commit(&other).unwrap();
        let kinds = |store: Arc<Store>| -> Vec<String> {
            let events = Spool::of(store).batch().unwrap().events;
            events.into_iter().map(|event| event.subject.kind).collect()
        };
        assert_eq!(kinds(Arc::clone(&store)), ["a", "b", "c", "d"]);
        drop(store);
        let again = Arc::new(on(dir.path(), &faults));
        assert_eq!(kinds(again), ["a", "b", "c", "d"]);
    }
}

#[test]
fn what_was_delivered_is_forgotten_with_a_commit_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let spool = Spool::of(Arc::clone(&store));
    let mut changes = Changes::default();
    for at_ms in 1..=3 {
        changes.tell(at_ms, &Subject::default());
    }
    store.commit(&changes).unwrap();
    spool.accepted(2).unwrap();
    store.commit(&Changes::default()).unwrap();
    drop((store, spool));

    let store = Arc::new(Store::open(dir.path()).unwrap());
    assert_eq!(Spool::of(store).batch().unwrap().after, 2);
}

#[test]
fn what_is_to_be_delivered_is_read_beside_what_is_written() {
    /// Commits, and events of each.
    const COMMITS: (u64, u64) = (1000, 5);
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(on(dir.path(), &Faults::default()));
    let spool = Spool::of(Arc::clone(&store));
    let all = COMMITS.0 * COMMITS.1;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for commit in 0..COMMITS.0 {
                let mut changes = Changes::default();
                // Something that dies, so that files go, and the events in them are copied.
                changes.put(META, "a", &"a".repeat(2000));
                for event in 1..=COMMITS.1 {
                    let seq = commit * COMMITS.1 + event;
                    changes.tell(seq as i64, &Subject::default());
                }
                store.commit(&changes).unwrap();
            }
        });
        let mut had = 0;
        while had < all {
            let batch = spool.batch().unwrap();
            assert_eq!(batch.after, had);
            for (event, seq) in batch.events.iter().zip(had + 1..) {
                assert_eq!((event.seq, event.at_ms), (seq, seq as i64));
            }
            // Half of them, so that some wait for long.
            had += (batch.events.len() as u64).div_ceil(2);
            spool.accepted(had).unwrap();
        }
    });
}
