//! What a sled tree says of itself: whose it is, and which schema it has.

use std::path::Path;

use super::migrate::{self, Ground, MigrateError};
use super::sync::LogFile;
use super::writer::{DATA, HEAD_KEY, Head, data_key, join, split};
use super::{Entry, Op, Range, StoreError, Versioned};

/// Where the kind of store and its schema stand.
const FORMAT_KEY: &[u8] = b"mformat";
/// What stands there, before the schema's number.
const OURS: &str = "totoro-control ";

/// Makes an empty tree ours, which is not durable yet, or brings an older store forward.
pub(super) fn settle(tree: &::sled::Tree, dir: &Path) -> Result<(), StoreError> {
    let unusable = |problem: String| StoreError::Unusable {
        path: dir.to_owned(),
        problem,
    };
    let Some(schema) = schema(tree).map_err(StoreError::Engine)? else {
        if !tree.is_empty() {
            return Err(unusable("it is not a Totoro store".to_owned()));
        }
        tree.insert(FORMAT_KEY, format_of(migrate::SCHEMA).as_slice())
            .map_err(StoreError::Engine)?;
        return Ok(());
    };
    let mut ground = SledGround { tree, dir };
    match migrate::forward(&mut ground, schema) {
        Ok(()) => Ok(()),
        Err(MigrateError::Store(error)) => Err(error),
        Err(refused) => Err(unusable(refused.to_string())),
    }
}

/// The schema of a tree; `None` where it is none of ours.
pub(super) fn schema(tree: &::sled::Tree) -> ::sled::Result<Option<u32>> {
    let format = tree.get(FORMAT_KEY)?;
    let number = |format: ::sled::IVec| {
        let text = String::from_utf8_lossy(&format).into_owned();
        text.strip_prefix(OURS)?.parse().ok()
    };
    Ok(format.and_then(number))
}

/// Makes an empty tree a store of this schema at this head: the last thing that a restore writes,
/// since before it nothing opens the tree.
pub(super) fn found(batch: &mut ::sled::Batch, schema: u32, head: Head) {
    batch.insert(FORMAT_KEY, format_of(schema));
    batch.insert(HEAD_KEY, &head.encode());
}

fn format_of(schema: u32) -> Vec<u8> {
    format!("{OURS}{schema}").into_bytes()
}

struct SledGround<'a> {
    tree: &'a ::sled::Tree,
    dir: &'a Path,
}

impl Ground for SledGround<'_> {
    fn range(&self, range: Range<'_>) -> Result<Vec<Entry>, StoreError> {
        let found = self.tree.range(data_key(range.from)..data_key(range.to));
        let entry = |item: ::sled::Result<(::sled::IVec, ::sled::IVec)>| {
            let (key, stored) = item.map_err(StoreError::Engine)?;
            let (revision, value) = split(&stored);
            let value = value.to_vec();
            debug_assert_eq!(key[0], DATA);
            Ok((key[1..].to_vec(), Versioned { revision, value }))
        };
        match range.reverse {
            true => found.rev().take(range.limit).map(entry).collect(),
            false => found.take(range.limit).map(entry).collect(),
        }
    }

    fn apply(&mut self, ops: Vec<Op>, schema: u32) -> Result<(), StoreError> {
        let head = self.tree.get(HEAD_KEY).map_err(StoreError::Engine)?;
        let mut head = head
            .and_then(|head| Head::decode(&head))
            .unwrap_or_default();
        head.revision += 1;
        let mut batch = ::sled::Batch::default();
        for op in ops {
            match op {
                Op::Put(key, value) => batch.insert(data_key(&key), join(head.revision, &value)),
                Op::Delete(key) => batch.remove(data_key(&key)),
                // The trail's order is that of arrival: a migration adds nothing to it.
                Op::Append(..) => return Err(StoreError::TooLarge("migration: it appends")),
            }
        }
        found(&mut batch, schema, head);
        self.tree.apply_batch(batch).map_err(StoreError::Engine)?;
        self.tree.flush().map_err(StoreError::Engine)?;
        LogFile::open(self.dir)?.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SledStore;
    use crate::store::migrate::Step;

    #[test]
    fn an_old_store_is_brought_forward_with_its_schema_in_one_commit() {
        let dir = tempfile::tempdir().unwrap();
        drop(SledStore::open(dir.path(), 4 << 20).unwrap());
        let db = ::sled::open(dir.path()).unwrap();
        let nothing = Step {
            what: "is done",
            plan: |_| Ok(vec![]),
        };
        let step = Step {
            what: "writes",
            plan: |_| Ok(vec![Op::Put(b"k".to_vec(), b"v".to_vec())]),
        };
        let head = |db: &::sled::Db| Head::decode(&db.get(HEAD_KEY).unwrap()?);
        let before = head(&db).unwrap_or_default();
        let mut ground = SledGround {
            tree: &db,
            dir: dir.path(),
        };
        migrate::forward_by(&[nothing, step], &mut ground, 2).unwrap();
        let value = ground.range(Range {
            from: b"k",
            to: b"l",
            limit: 1,
            reverse: true,
        });
        let revision = before.revision + 1;
        let value = value.unwrap().remove(0).1;
        assert_eq!((value.revision, &value.value[..]), (revision, &b"v"[..]));
        assert_eq!(db.get(FORMAT_KEY).unwrap().unwrap(), b"totoro-control 3");
        assert_eq!(head(&db), Some(Head { revision, ..before }));
        drop(db);
        std::fs::remove_file(dir.path().join("sealed")).unwrap();
        // And this program, which knows only 2, leaves it alone.
        let refused = SledStore::open(dir.path(), 4 << 20).err().unwrap();
        assert!(refused.to_string().contains("newer version"), "{refused}");
    }
}
