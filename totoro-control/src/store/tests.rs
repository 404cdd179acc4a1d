//! The store against a model of it: a `BTreeMap` and a counter.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// One step of a run. Keys are few, so that preconditions and overwrites meet.
#[derive(Clone, Debug)]
enum Step {
    Commit {
        expect: Vec<(u8, Guess)>,
        ops: Vec<Change>,
    },
    /// Several commits at once: they share batches.
    Race(Vec<u8>),
    Reopen,
}

/// What a precondition expects: right or wrong, judged against the model.
#[derive(Clone, Copy, Debug)]
enum Guess {
    AsItIs,
    Absent,
    Revision(u64),
}

#[derive(Clone, Debug)]
enum Change {
    Put(u8, Vec<u8>),
    Delete(u8),
    Append(Vec<u8>),
}

fn guess() -> impl Strategy<Value = Guess> {
    prop_oneof![4 => Just(Guess::AsItIs), 1 => Just(Guess::Absent), 1 => (0u64..3000).prop_map(Guess::Revision)]
}

fn change() -> impl Strategy<Value = Change> {
    let value = proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        4 => (0u8..8, value.clone()).prop_map(|(key, value)| Change::Put(key, value)),
        2 => (0u8..8).prop_map(Change::Delete),
        1 => value.prop_map(Change::Append),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let commit = (
        proptest::collection::vec((0u8..8, guess()), 0..3),
        proptest::collection::vec(change(), 1..5),
    );
    prop_oneof![
        8 => commit.prop_map(|(expect, ops)| Step::Commit { expect, ops }),
        2 => proptest::collection::vec(0u8..8, 2..12).prop_map(Step::Race),
        1 => Just(Step::Reopen),
    ]
}

fn key(index: u8) -> Vec<u8> {
    format!("key/{index}").into_bytes()
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<Vec<u8>, Versioned>,
    appended: Vec<Vec<u8>>,
}

impl Model {
    fn expectation(&self, (index, guess): (u8, Guess)) -> (Vec<u8>, Expect, bool) {
        let key = key(index);
        let stands = self.entries.get(&key).map(|found| found.revision);
        let expect = match (guess, stands) {
            (Guess::AsItIs, Some(revision)) => Expect::Revision(revision),
            (Guess::AsItIs | Guess::Absent, _) => Expect::Absent,
            (Guess::Revision(revision), _) => Expect::Revision(revision),
        };
        let holds = match expect {
            Expect::Absent => stands.is_none(),
            Expect::Revision(revision) => stands == Some(revision),
        };
        (key, expect, holds)
    }

    fn apply(&mut self, ops: &[Change], revision: u64) {
        for op in ops {
            match op.clone() {
                Change::Put(index, value) => {
                    self.entries
                        .insert(key(index), Versioned { revision, value });
                }
                Change::Delete(index) => {
                    self.entries.remove(&key(index));
                }
                Change::Append(value) => self.appended.push(value),
            }
        }
    }
}

fn ops(changes: &[Change]) -> Vec<Op> {
    changes
        .iter()
        .cloned()
        .map(|change| match change {
            Change::Put(index, value) => Op::Put(key(index), value),
            Change::Delete(index) => Op::Delete(key(index)),
            Change::Append(value) => Op::Append(b"log/".to_vec(), value),
        })
        .collect()
}

fn all(store: &SledStore, prefix: &[u8], reverse: bool) -> Vec<Entry> {
    let to = prefix_end(prefix);
    store
        .range(Range {
            from: prefix,
            to: &to,
            limit: usize::MAX,
            reverse,
        })
        .unwrap()
}

/// Opens a store that may just have been dropped: a process that another test starts holds a copy of
/// its lock from its fork until its exec.
pub(super) fn open(dir: &std::path::Path) -> SledStore {
    for _ in 0..1000 {
        match SledStore::open(dir, 4 << 20) {
            Err(StoreError::InUse { .. }) => std::thread::sleep(Duration::from_millis(5)),
            opened => return opened.unwrap(),
        }
    }
    panic!("the store is not given back")
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let (mut model, mut last) = (Model::default(), 0);
    for step in steps {
        match step {
            Step::Commit {
                expect,
                ops: changes,
            } => {
                let expectations: Vec<_> = expect
                    .into_iter()
                    .map(|guess| model.expectation(guess))
                    .collect();
                let holds = expectations.iter().all(|(_, _, holds)| *holds);
                let expect = expectations
                    .into_iter()
                    .map(|(key, expect, _)| (key, expect));
                let commit = Commit {
                    expect: expect.collect(),
                    ops: ops(&changes),
                };
                match store.commit(commit).await {
                    Ok(revision) => {
                        assert!(
                            holds && revision > last,
                            "applied at {revision} after {last}"
                        );
                        model.apply(&changes, revision);
                        last = revision;
                    }
                    Err(StoreError::Conflict) => assert!(!holds),
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Race(indices) => {
                let commits = indices.iter().map(|&index| {
                    let commit = Commit {
                        expect: vec![],
                        ops: ops(&[Change::Put(index, vec![index]), Change::Append(vec![index])]),
                    };
                    store.commit(commit)
                });
                let mut done: Vec<(u64, u8)> = futures_util::future::join_all(commits)
                    .await
                    .into_iter()
                    .map(Result::unwrap)
                    .zip(indices.iter().copied())
                    .collect();
                done.sort_unstable();
                for (revision, index) in done {
                    assert!(revision > last, "each commit has a revision of its own");
                    let changes = [Change::Put(index, vec![index]), Change::Append(vec![index])];
                    model.apply(&changes, revision);
                    last = revision;
                }
            }
            Step::Reopen => {
                drop(store);
                store = open(dir.path());
            }
        }
        let entries: Vec<Entry> = model
            .entries
            .iter()
            .map(|(key, found)| (key.clone(), found.clone()))
            .collect();
        assert_eq!(all(&store, b"key/", false), entries);
        let backwards: Vec<Entry> = entries.into_iter().rev().collect();
        assert_eq!(all(&store, b"key/", true), backwards);
        let log: Vec<Vec<u8>> = all(&store, b"log/", false)
            .into_iter()
            .map(|(_, found)| found.value)
            .collect();
        assert_eq!(
            log, model.appended,
            "appended values stay in the order of their commits"
        );
        for index in 0..8 {
            assert_eq!(
                store.get(&key(index)).unwrap().as_ref(),
                model.entries.get(&key(index))
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_its_model(steps in proptest::collection::vec(step(), 1..24)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_expect_the_same_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let commits = (0u8..64).map(|index| {
        let expect = vec![(b"one".to_vec(), Expect::Absent)];
        store.commit(Commit {
            expect,
            ops: vec![Op::Put(b"one".to_vec(), vec![index])],
        })
    });
    let done = futures_util::future::join_all(commits).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1);
    assert!(
        done.iter()
            .all(|done| matches!(done, Ok(_) | Err(StoreError::Conflict)))
    );
}

#[tokio::test]
async fn watchers_hear_of_their_prefix_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (mut mine, other) = (store.watch(b"n/1/"), store.watch(b"n/2/"));
    let put = |key: &str| Op::Put(key.as_bytes().to_vec(), vec![]);
    let commit = Commit {
        expect: vec![],
        ops: vec![put("n/1/x"), put("n/10/x")],
    };
    let revision = store.commit(commit).await.unwrap();
    mine.changed().await.unwrap();
    assert_eq!(*mine.borrow_and_update(), revision);
    assert!(!other.has_changed().unwrap());
}

#[tokio::test]
async fn limits_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for op in [
        Op::Put(vec![b'k'; MAX_KEY + 1], vec![]),
        Op::Put(b"k".to_vec(), vec![0; MAX_VALUE + 1]),
        Op::Append(b"k".to_vec(), vec![0; MAX_VALUE + 1]),
    ] {
        let ops = vec![Op::Put(b"first".to_vec(), vec![]), op];
        let done = store
            .commit(Commit {
                expect: vec![],
                ops,
            })
            .await;
        assert!(matches!(done, Err(StoreError::TooLarge(_))));
    }
    assert_eq!(store.get(b"first").unwrap(), None);
    store.close().await;
    let late = Commit {
        expect: vec![],
        ops: vec![Op::Delete(b"k".to_vec())],
    };
    assert!(matches!(store.commit(late).await, Err(StoreError::Closed)));
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
    db.insert(b"mformat", b"totoro-control 2").unwrap();
    drop(db);
    let error = SledStore::open(newer.path(), 4 << 20)
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("totoro-control 2"), "{error}");
}

#[test]
fn prefixes_end_after_all_they_begin() {
    assert_eq!(prefix_end(b"a/"), b"a0");
    assert_eq!(prefix_end(&[b'a', 0xff]), b"b");
    assert_eq!(prefix_end(&[0xff]).len(), MAX_KEY);
}
