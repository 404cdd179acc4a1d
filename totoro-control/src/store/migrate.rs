//! The schema's version and the way forward: steps in order, each in one durable commit that moves
//! the version with it. A store that was killed between two steps goes on at the next.

use super::{Entry, Op, Range, StoreError};

/// One step from a version to the next.
pub(super) struct Step {
    /// What it does, for the log.
    pub(super) what: &'static str,
    /// The changes, from what stands there. They are held in memory: a step that must touch every
    /// record does it lazily, by writing records in the new shape when they change.
    pub(super) plan: fn(&dyn Ground) -> Result<Vec<Op>, StoreError>,
}

/// The steps from 1 to 2, from 2 to 3 and so on. Only ever grows.
const STEPS: &[Step] = &[Step {
    // An older program would not look into it, and lose what is there alone.
    what: "the newest commits may stand in a log beside sled",
    plan: |_| Ok(Vec::new()),
}];

/// The schema that this program reads and writes.
pub const SCHEMA: u32 = 1 + STEPS.len() as u32;

/// What a backend gives a migration.
pub(super) trait Ground {
    /// A range of keys in order.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "the first step that changes entries is still to come"
        )
    )]
    fn range(&self, range: Range<'_>) -> Result<Vec<Entry>, StoreError>;

    /// Applies the changes and the new version in one durable commit.
    fn apply(&mut self, ops: Vec<Op>, schema: u32) -> Result<(), StoreError>;
}

/// Why a schema cannot be brought forward.
#[derive(Debug, thiserror::Error)]
pub(super) enum MigrateError {
    #[error("it has schema {found} and this version knows {known}: start the newer version")]
    Newer { found: u32, known: u32 },
    #[error("it has schema {0}, which there never was")]
    Unknown(u32),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Brings a store of schema `found` to the newest.
pub(super) fn forward(ground: &mut dyn Ground, found: u32) -> Result<(), MigrateError> {
    forward_by(STEPS, ground, found)
}

/// [`forward`] by these steps.
pub(super) fn forward_by(
    steps: &[Step],
    ground: &mut dyn Ground,
    found: u32,
) -> Result<(), MigrateError> {
    let done = match found.checked_sub(1) {
        Some(done) => done as usize,
        None => return Err(MigrateError::Unknown(found)),
    };
    if done > steps.len() {
        let known = 1 + u32::try_from(steps.len()).unwrap_or(u32::MAX - 1);
        return Err(MigrateError::Newer { found, known });
    }
    for (step, schema) in steps[done..].iter().zip(found + 1..) {
        tracing::info!(schema, what = step.what, "migrating the store");
        let ops = (step.plan)(ground)?;
        ground.apply(ops, schema)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Versioned, prefix_end};
    use super::*;

    /// Renames `old/…` to `new/…`.
    const RENAME: Step = Step {
        what: "renames old to new",
        plan: |ground| {
            let to = prefix_end(b"old/");
            let range = Range {
                from: b"old/",
                to: &to,
                limit: usize::MAX,
                reverse: false,
            };
            let moved = ground.range(range)?.into_iter().flat_map(|(key, found)| {
                let new = [b"new/", &key[4..]].concat();
                [Op::Delete(key), Op::Put(new, found.value)]
            });
            Ok(moved.collect())
        },
    };
    /// Stands on what the first step made.
    const MARK: Step = Step {
        what: "marks what is new",
        plan: |ground| {
            let range = Range {
                from: b"new/",
                to: b"new0",
                limit: usize::MAX,
                reverse: false,
            };
            let count = ground.range(range)?.len();
            Ok(vec![Op::Put(b"count".to_vec(), vec![count as u8])])
        },
    };

    #[derive(Default)]
    struct Old {
        schema: u32,
        entries: BTreeMap<Vec<u8>, Vec<u8>>,
        commits: Vec<u32>,
        fails_at: Option<u32>,
    }

    impl Ground for Old {
        fn range(&self, range: Range<'_>) -> Result<Vec<Entry>, StoreError> {
            let found = self.entries.range(range.from.to_vec()..range.to.to_vec());
            let entry = |(key, value): (&Vec<u8>, &Vec<u8>)| {
                let value = value.clone();
                (key.clone(), Versioned { revision: 1, value })
            };
            Ok(found.map(entry).collect())
        }

        fn apply(&mut self, ops: Vec<Op>, schema: u32) -> Result<(), StoreError> {
            if self.fails_at == Some(schema) {
                return Err(StoreError::Closed);
            }
            for op in ops {
                match op {
                    Op::Put(key, value) => drop(self.entries.insert(key, value)),
                    Op::Delete(key) => drop(self.entries.remove(&key)),
                    Op::Append(..) => unreachable!("no step appends"),
                }
            }
            self.schema = schema;
            self.commits.push(schema);
            Ok(())
        }
    }

    fn old() -> Old {
        let entries = [(b"old/a".to_vec(), vec![1]), (b"old/b".to_vec(), vec![2])];
        Old {
            schema: 1,
            entries: entries.into(),
            ..Old::default()
        }
    }

    #[test]
    fn steps_run_in_order_each_in_its_commit_and_go_on_after_a_failure() {
        let mut ground = old();
        ground.fails_at = Some(3);
        let steps = [RENAME, MARK];
        let failed = forward_by(&steps, &mut ground, 1);
        assert!(matches!(failed, Err(MigrateError::Store(_))));
        assert_eq!((ground.schema, &ground.commits[..]), (2, &[2][..]));
        ground.fails_at = None;
        let found = ground.schema;
        forward_by(&steps, &mut ground, found).unwrap();
        assert_eq!((ground.schema, &ground.commits[..]), (3, &[2, 3][..]));
        let keys: Vec<&[u8]> = ground.entries.keys().map(Vec::as_slice).collect();
        assert_eq!(keys, [&b"count"[..], b"new/a", b"new/b"]);
        assert_eq!(ground.entries[&b"count"[..]], [2]);
        // The newest has nowhere to go.
        forward_by(&steps, &mut ground, 3).unwrap();
        assert_eq!(ground.commits.len(), 2);
    }

    #[test]
    fn newer_and_impossible_ones_are_refused() {
        let mut ground = old();
        let steps = [RENAME];
        let newer = forward_by(&steps, &mut ground, 3).unwrap_err().to_string();
        assert!(
            newer.contains("schema 3") && newer.contains("knows 2"),
            "{newer}"
        );
        assert!(forward_by(&steps, &mut ground, 0).is_err());
        assert!(ground.commits.is_empty());
    }
}
