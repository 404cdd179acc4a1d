//! One attempt at a change: reads that become preconditions, and the changes that follow from them.

use std::cell::RefCell;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Commit, Entry, Expect, MAX_VALUE, Op, Range, Store, StoreError, prefix_end};

/// A decoded record and the revision that wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record<T> {
    /// The commit's revision: the record's version, its ETag.
    pub revision: u64,
    /// The record.
    pub value: T,
}

/// Collects a commit. What [`Tx::get`] saw must still stand when the commit is applied, or the
/// whole of it is refused and tried again. Reads see the store, not this transaction's own writes.
pub struct Tx<'a> {
    store: &'a dyn Store,
    commit: Commit,
}

impl<'a> Tx<'a> {
    /// An empty one.
    #[must_use]
    pub fn new(store: &'a dyn Store) -> Self {
        Tx {
            store,
            commit: Commit::default(),
        }
    }

    /// Reads a record; that it stays as it is becomes a precondition.
    ///
    /// # Errors
    /// When the store fails or the record cannot be read.
    pub fn get<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<Record<T>>, StoreError> {
        let found = self.peek(key)?;
        self.expect(key, found.as_ref().map(|record| record.revision));
        Ok(found)
    }

    /// Makes it a precondition that a key stands at this revision, or is not there.
    pub fn expect(&mut self, key: impl Into<String>, stands: Option<u64>) {
        let expect = stands.map_or(Expect::Absent, Expect::Revision);
        self.commit.expect.push((key.into().into_bytes(), expect));
    }

    /// The preconditions so far.
    pub(crate) fn expected(&self) -> &[(Vec<u8>, Expect)] {
        &self.commit.expect
    }

    /// Makes these preconditions.
    pub(crate) fn expect_all(&mut self, stand: &[(Vec<u8>, Expect)]) {
        self.commit.expect.extend_from_slice(stand);
    }

    /// Reads a record that may change meanwhile.
    ///
    /// # Errors
    /// When the store fails or the record cannot be read.
    pub fn peek<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Record<T>>, StoreError> {
        read(self.store, key)
    }

    /// The keys under a prefix, without it, in order. They may change meanwhile.
    ///
    /// # Errors
    /// When the store fails.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        names(self.store, prefix)
    }

    /// Writes a record.
    ///
    /// # Errors
    /// When it cannot be encoded, which no record of ours does.
    pub fn put<T: Serialize>(
        &mut self,
        key: impl Into<String>,
        value: &T,
    ) -> Result<(), StoreError> {
        let key = key.into();
        let value = encode(&key, value)?;
        self.commit.ops.push(Op::Put(key.into_bytes(), value));
        Ok(())
    }

    /// Writes a record under a new key at the end of `prefix`.
    ///
    /// # Errors
    /// When it cannot be encoded, which no record of ours does.
    pub fn append<T: Serialize>(&mut self, prefix: &str, value: &T) -> Result<(), StoreError> {
        self.commit.ops.push(Op::Append(
            prefix.as_bytes().to_vec(),
            encode(prefix, value)?,
        ));
        Ok(())
    }

    /// Writes bytes under a new key at the end of `prefix`.
    pub fn append_bytes(&mut self, prefix: &str, value: Vec<u8>) {
        let op = Op::Append(prefix.as_bytes().to_vec(), value);
        self.commit.ops.push(op);
    }

    /// Removes a key.
    pub fn delete(&mut self, key: impl Into<String>) {
        self.commit.ops.push(Op::Delete(key.into().into_bytes()));
    }

    /// Removes a key that is not text.
    pub fn delete_raw(&mut self, key: Vec<u8>) {
        self.commit.ops.push(Op::Delete(key));
    }

    /// What was collected.
    #[must_use]
    pub fn into_commit(self) -> Commit {
        self.commit
    }
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, StoreError> {
    json(value).map_err(|source| StoreError::Unreadable {
        key: key.to_owned(),
        source,
    })
}

/// A value as JSON, in no more memory than it takes: it may stay for long.
pub(crate) fn json<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    thread_local! {
        static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    TEXT.with_borrow_mut(|text| {
        text.clear();
        text.shrink_to(MAX_VALUE);
        serde_json::to_writer(&mut *text, value)?;
        Ok(text.clone())
    })
}

/// Reads and decodes one record.
///
/// # Errors
/// When the store fails or the record cannot be read.
pub(crate) fn read<T: DeserializeOwned>(
    store: &dyn Store,
    key: &str,
) -> Result<Option<Record<T>>, StoreError> {
    let Some(found) = store.get(key.as_bytes())? else {
        return Ok(None);
    };
    let value = serde_json::from_slice(&found.value).map_err(|source| StoreError::Unreadable {
        key: key.to_owned(),
        source,
    })?;
    Ok(Some(Record {
        revision: found.revision,
        value,
    }))
}

/// The records under a prefix with their keys without it, in order.
///
/// # Errors
/// When the store fails or a record cannot be read.
pub(crate) fn records<T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
) -> Result<Vec<(String, Record<T>)>, StoreError> {
    let to = prefix_end(prefix.as_bytes());
    let range = Range {
        from: prefix.as_bytes(),
        to: &to,
        limit: usize::MAX,
        reverse: false,
    };
    let read = |(key, found): Entry| {
        let key = String::from_utf8_lossy(&key).into_owned();
        match serde_json::from_slice(&found.value) {
            Ok(value) => {
                let revision = found.revision;
                Ok((key[prefix.len()..].to_owned(), Record { revision, value }))
            }
            Err(source) => Err(StoreError::Unreadable { key, source }),
        }
    };
    store.range(range)?.into_iter().map(read).collect()
}

/// The keys under a prefix, without it, in order.
///
/// # Errors
/// When the store fails.
pub(crate) fn names(store: &dyn Store, prefix: &str) -> Result<Vec<String>, StoreError> {
    let to = prefix_end(prefix.as_bytes());
    let range = Range {
        from: prefix.as_bytes(),
        to: &to,
        limit: usize::MAX,
        reverse: false,
    };
    let entries = store.range(range)?;
    Ok(entries
        .into_iter()
        .map(|(key, _)| String::from_utf8_lossy(&key[prefix.len()..]).into_owned())
        .collect())
}
