//! What every backend must do: the store against a model of it, a `BTreeMap` and a counter, and the
//! promises of the trait one by one. A new backend says how to make and to open one, and runs it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

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

/// A kind of store. Its value is one place that holds a store: empty at first, and what is in it
/// outlives the handles.
pub(super) trait Backend {
    type Store: Store;

    /// An empty place.
    fn new() -> Self;

    /// Opens what is in it. The handle before it is gone.
    fn open(&self) -> Self::Store;
}

/// Runs everything on one backend.
pub(super) fn suite<B: Backend>() {
    the_store_is_its_model::<B>();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        of_many_that_expect_the_same_one_wins(&B::new().open()).await;
        watchers_hear_of_their_prefix_only(&B::new().open()).await;
        limits_are_refused_and_change_nothing(&B::new().open()).await;
        a_snapshot_stands_still(&B::new().open()).await;
    });
}

fn all(store: &impl Store, prefix: &[u8], reverse: bool) -> Vec<Entry> {
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

async fn run<B: Backend>(steps: Vec<Step>) {
    let place = B::new();
    let mut store = place.open();
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
                store = place.open();
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

fn the_store_is_its_model<B: Backend>() {
    let config = ProptestConfig {
        cases: 24,
        max_shrink_iters: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let steps = proptest::collection::vec(step(), 1..24);
    let model = TestRunner::new(config).run(&steps, |steps| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(run::<B>(steps));
        Ok(())
    });
    model.unwrap();
}

async fn of_many_that_expect_the_same_one_wins(store: &impl Store) {
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

async fn watchers_hear_of_their_prefix_only(store: &impl Store) {
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

async fn limits_are_refused_and_change_nothing(store: &impl Store) {
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

/// What was there when it began, whatever is written, overwritten and deleted while it is read.
async fn a_snapshot_stands_still(store: &impl Store) {
    let key = |index: u32| format!("s/{index:05}").into_bytes();
    let put = |index, value: &str| Op::Put(key(index), value.as_bytes().to_vec());
    let fill = |value: &'static str| Commit {
        expect: vec![],
        ops: (0..9000)
            .step_by(2)
            .map(|index| put(index, value))
            .collect(),
    };
    store.commit(fill("old")).await.unwrap();
    let before = all(store, b"", false);
    let mut snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.head().revision, before[0].1.revision);
    let (mut read, mut round) = (Vec::new(), 0);
    while let Some(part) = snapshot.next().await.unwrap() {
        read.extend(part);
        // Before and behind what was read: new keys, other values, none at all; and at the end.
        let mut ops: Vec<Op> = (0..9000)
            .skip(round)
            .step_by(97)
            .map(|index| match index % 3 {
                0 => Op::Delete(key(index)),
                _ => put(index, "new"),
            })
            .collect();
        ops.push(Op::Append(b"t/".to_vec(), vec![]));
        let expect = vec![];
        store.commit(Commit { expect, ops }).await.unwrap();
        round += 1;
    }
    assert_eq!(read, before);
    drop(snapshot);
    // All of it deleted right after the beginning is there all the same.
    let before = all(store, b"", false);
    let mut snapshot = store.snapshot().await.unwrap();
    let ops = before
        .iter()
        .map(|(key, _)| Op::Delete(key.clone()))
        .collect();
    let expect = vec![];
    store.commit(Commit { expect, ops }).await.unwrap();
    let mut read = Vec::new();
    while let Some(part) = snapshot.next().await.unwrap() {
        read.extend(part);
    }
    assert_eq!(read, before);
    assert!(all(store, b"", false).is_empty());
}
