//! Layers over sled against a map, while they are frozen, half written and dropped.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::view::{Layer, View};
use super::writer::{Head, data_key, join};
use super::*;

const KEYS: u8 = 80;

#[derive(Clone, Debug)]
enum Step {
    /// Removed where there is no value.
    Write(u8, Option<Vec<u8>>),
    /// Under a key that never was.
    Append,
    /// Removes the oldest of those.
    Take,
    Freeze,
    /// A part of the frozen layer, as a kill would leave it.
    Begin(usize),
    Thaw,
    Look(u8, u8, usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let value = proptest::collection::vec(any::<u8>(), 0..4);
    prop_oneof![
        12 => (0..KEYS, proptest::option::of(value)).prop_map(|(key, value)| Step::Write(key, value)),
        4 => Just(Step::Append),
        2 => Just(Step::Take),
        1 => Just(Step::Freeze),
        1 => (0usize..40).prop_map(Step::Begin),
        1 => Just(Step::Thaw),
        4 => (0..KEYS, 0..=KEYS, prop_oneof![0usize..100, Just(usize::MAX)], any::<bool>())
            .prop_map(|(from, to, limit, reverse)| Step::Look(from, to, limit, reverse)),
    ]
}

fn key(index: u8) -> Vec<u8> {
    format!("k/{index:03}").into_bytes()
}

/// What the view should say, and how far it is with its layers.
struct World {
    view: View,
    tree: ::sled::Tree,
    model: BTreeMap<Vec<u8>, Versioned>,
    frozen: Option<Arc<Layer>>,
    revision: u64,
}

impl World {
    fn write(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, alone: bool) {
        self.revision += 1;
        let revision = self.revision;
        match value.clone() {
            Some(value) => {
                let found = Versioned { revision, value };
                self.model.insert(key.clone(), found);
            }
            None => drop(self.model.remove(&key)),
        }
        // Asked before, so that it is remembered.
        self.view.revision(&key).unwrap();
        let stamp = self.view.stamp(&key);
        let stands = value.is_some().then_some(revision);
        self.view
            .change(revision, vec![(key.clone(), value, alone)]);
        assert_eq!(self.view.revision(&key).unwrap(), stands);
        // Nobody has asked for a key that was not there before.
        assert_eq!(self.view.stamp(&key) == stamp, alone);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(index, value) => self.write(key(index), value, false),
            Step::Append => {
                let key = format!("k/~{:06}", self.revision).into_bytes();
                self.write(key, Some(vec![7]), true);
            }
            Step::Take => {
                let oldest = self.model.range(b"k/~".to_vec()..).next();
                if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                    self.write(key, None, false);
                }
            }
            Step::Freeze if self.frozen.is_none() => self.frozen = Some(self.view.freeze()),
            Step::Begin(part) => {
                for (key, slot) in self
                    .frozen
                    .iter()
                    .flat_map(|frozen| frozen.iter())
                    .take(part)
                {
                    let stored = slot.value.as_ref();
                    let stored = stored.map(|value| join(slot.revision, value));
                    match stored {
                        Some(stored) => drop(self.tree.insert(data_key(key), stored).unwrap()),
                        None => drop(self.tree.remove(data_key(key)).unwrap()),
                    }
                }
            }
            Step::Thaw => {
                if let Some(frozen) = self.frozen.take() {
                    checkpoint::write(&self.tree, &frozen, Head::default()).unwrap();
                    self.view.thaw();
                }
            }
            Step::Look(from, to, limit, reverse) => {
                // The last one looks past what was appended.
                let end = if to == KEYS { b"l".to_vec() } else { key(to) };
                let found = self
                    .view
                    .range(&key(from), Bound::Excluded(&end), limit, reverse);
                let within = self
                    .model
                    .iter()
                    .filter(|(at, _)| **at >= key(from) && **at < end);
                let within = within.map(|(at, found)| (at.clone(), found.clone()));
                let mut expected: Vec<Entry> = within.collect();
                if reverse {
                    expected.reverse();
                }
                expected.truncate(limit);
                assert_eq!(found.unwrap(), expected);
            }
            Step::Freeze => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn layers_over_sled_read_like_one_map(steps in proptest::collection::vec(step(), 1..300)) {
        let db = ::sled::Config::new().temporary(true).flush_every_ms(None).open().unwrap();
        let tree = (*db).clone();
        let mut world = World {
            view: View::new(tree.clone(), Layer::default()),
            tree,
            model: BTreeMap::new(),
            frozen: None,
            revision: 0,
        };
        for step in steps {
            world.step(step);
        }
        for index in 0..KEYS {
            let expected = world.model.get(&key(index));
            assert_eq!(world.view.get(&key(index)).unwrap().as_ref(), expected);
            let revision = world.view.revision(&key(index)).unwrap();
            assert_eq!(revision, expected.map(|found| found.revision));
        }
        world.step(Step::Look(0, KEYS, usize::MAX, false));
        world.step(Step::Look(0, KEYS, usize::MAX, true));
    }
}

/// Whoever has seen that a change is applied never gets an older revision.
#[test]
fn a_remembered_revision_is_never_old() {
    const CHANGES: u64 = 20_000;
    let db = ::sled::Config::new()
        .temporary(true)
        .flush_every_ms(None)
        .open()
        .unwrap();
    let view = View::new((*db).clone(), Layer::default());
    let applied = AtomicU64::new(0);
    let key = |revision: u64| key(u8::try_from(revision % 3).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while applied.load(Ordering::Acquire) < CHANGES {
                    let at_least = applied.load(Ordering::Acquire).max(3);
                    for back in 0..3 {
                        let key = key(at_least - back);
                        let stamp = view.stamp(&key);
                        let revision = view.revision(&key).unwrap();
                        assert!(at_least == 3 || revision >= Some(at_least - back));
                        let (again, same) = (view.revision(&key).unwrap(), view.stamp(&key));
                        assert!(again == revision || same != stamp);
                    }
                }
            });
        }
        for revision in 1..=CHANGES {
            view.change(revision, vec![(key(revision), Some(vec![1]), false)]);
            applied.store(revision, Ordering::Release);
            if revision % 500 == 0 {
                let frozen = view.freeze();
                checkpoint::write(&db, &frozen, Head::default()).unwrap();
                view.thaw();
            }
        }
    });
}

#[test]
fn what_comes_and_goes_within_a_layer_leaves_nothing() {
    let mut layer = Layer::default();
    layer.apply(b"a".to_vec(), 1, Some(vec![0; 50]), true);
    layer.apply(b"a".to_vec(), 2, None, false);
    assert_eq!((layer.bytes(), layer.iter().count()), (0, 0));
    // Below may be something: that it is gone must be known.
    layer.apply(b"b".to_vec(), 3, Some(vec![0; 50]), false);
    layer.apply(b"b".to_vec(), 4, None, false);
    assert_eq!(layer.iter().count(), 1);
}
