//! The store on a slow and on a broken disk.

use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use super::tests::open;
use super::wal::Wal;
use super::writer::{Bounds, MakeDurable};
use super::*;

/// Set in the process that a broken disk is to end.
const BROKEN: &str = "TOTORO_TEST_BROKEN_DISK";

fn put(key: &str, expect: Vec<(Vec<u8>, Expect)>) -> Commit {
    let ops = vec![Op::Put(key.as_bytes().to_vec(), vec![])];
    Commit { expect, ops }
}

#[tokio::test]
async fn what_is_seen_is_acknowledged_only_once_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (step, steps) = mpsc::channel::<()>();
    let stalls: MakeDurable = Box::new(move |log: &Wal| {
        steps.recv().expect("a step");
        log.sync()
    });
    let store = SledStore::open_with(dir.path(), 4 << 20, Bounds::USUAL, stalls).unwrap();
    let mut writing =
        tokio::spawn(store.commit(put("n/x", vec![(b"n/x".to_vec(), Expect::Absent)])));
    let seen = loop {
        match store.get(b"n/x").unwrap() {
            Some(seen) => break seen,
            None => tokio::task::yield_now().await,
        }
    };
    // A repeat has nothing to write, but stands on what was seen.
    let repeat = Commit {
        expect: vec![(b"n/x".to_vec(), Expect::Revision(seen.revision))],
        ops: vec![],
    };
    let mut repeating = tokio::spawn(store.commit(repeat.clone()));
    let wait = Duration::from_millis(200);
    assert!(tokio::time::timeout(wait, &mut repeating).await.is_err());
    assert!(tokio::time::timeout(wait, &mut writing).await.is_err());
    step.send(()).unwrap();
    assert_eq!(writing.await.unwrap().unwrap(), seen.revision);
    assert_eq!(repeating.await.unwrap().unwrap(), seen.revision);
    // With nothing to wait for it asks nothing of the disk.
    assert_eq!(store.commit(repeat).await.unwrap(), seen.revision);
    let stale = Commit {
        expect: vec![(b"n/x".to_vec(), Expect::Absent)],
        ops: vec![],
    };
    assert!(matches!(
        store.commit(stale).await,
        Err(StoreError::Conflict)
    ));
}

#[tokio::test]
async fn a_revision_that_was_seen_is_never_given_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        // As if it were killed before its first commit.
        let store = open(dir.path());
        let now = *store.watch(b"n/").borrow();
        assert!(now >= last + 512, "{now} after {last}");
        last = now;
    }
}

#[test]
fn nobody_else_looks_into_the_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("a/data");
    drop(SledStore::open(&at, 4 << 20).unwrap());
    for made in ["a", "a/data"] {
        let about = std::fs::metadata(dir.path().join(made)).unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o700, "{made}");
    }
}

/// Runs as the child of the test below, which it ends.
#[tokio::test]
async fn broken() {
    let Ok(how) = std::env::var(BROKEN) else {
        return;
    };
    let breaks: MakeDurable = Box::new(move |_: &Wal| match how.as_str() {
        "panics" => panic!("the disk is on fire"),
        _ => Err(StoreError::Io {
            doing: "fdatasync",
            path: "wal".into(),
            source: std::io::Error::other("no"),
        }),
    });
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open_with(dir.path(), 4 << 20, Bounds::USUAL, breaks).unwrap();
    let done = store.commit(put("x", vec![])).await;
    println!("answered {}", matches!(done, Err(StoreError::Closed)));
    std::future::pending::<()>().await;
}

#[test]
fn a_broken_disk_ends_the_process() {
    for (how, answers) in [("fails", true), ("panics", false)] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", "store::disk_tests::broken", "--nocapture"])
            .env(BROKEN, how);
        let ended = child.output().unwrap();
        assert_eq!(ended.status.code(), Some(crate::EXIT_STORE_FAILED), "{how}");
        // Who asked is told before the end.
        let said = String::from_utf8_lossy(&ended.stdout).contains("answered true");
        assert!(said || !answers, "{how}");
    }
}
