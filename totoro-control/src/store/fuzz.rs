//! What the store reads from its files, as bytes alone, for the fuzz targets (`tests/fuzz`).

use super::record::{self, Change};
use super::seal::Seal;
use super::sum::Target;
use super::writer::Head;

/// A change: key, revision, value (`None` = removed).
pub type Parts = (Vec<u8>, u64, Option<Vec<u8>>);

/// A record of the log: the revision and the day after it, and its changes.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    /// The newest revision.
    pub revision: u64,
    /// Days since 1970.
    pub day: u32,
    /// In order; `None` where they can't be read.
    pub changes: Option<Vec<Parts>>,
}

/// The records that a file of the log begins with, and how many bytes follow them.
#[must_use]
pub fn records(mut bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut found = Vec::new();
    while let Some((payload, after)) = record::first(bytes) {
        let Some((head, changes)) = payload
            .split_at_checked(Head::LEN)
            .and_then(|(head, changes)| Some((Head::decode(head)?, changes)))
        else {
            break;
        };
        let mut parts = Vec::new();
        let read = record::changes(changes, &mut |change: Change| {
            parts.push((change.key, change.revision, change.value));
        });
        found.push(Record {
            revision: head.revision,
            day: head.day,
            changes: read.map(|()| parts),
        });
        bytes = after;
    }
    (found, bytes.len())
}

/// Writes a record.
#[must_use]
pub fn record(revision: u64, day: u32, changes: &[Parts]) -> Vec<u8> {
    let mut record = record::Record::new();
    for (key, revision, value) in changes {
        record.push(key, *revision, value.as_deref());
    }
    record.finish(Head { revision, day }).to_vec()
}

/// The sum of sled's keys that a checkpoint leaves behind, read and written again.
#[must_use]
pub fn sum(text: &str) -> Option<String> {
    Some(Target::parse(text)?.text())
}

/// Such a sum, of one key.
#[must_use]
pub fn sum_of(key: &[u8], revision: u64) -> String {
    let mut sum = super::sum::Sum::default();
    sum.turn(key, revision);
    Target { revision, sum }.text()
}

/// A closed store's seal, read and written again.
#[must_use]
pub fn seal(bytes: &[u8]) -> Option<Vec<u8>> {
    let seal: Seal = serde_json::from_slice(bytes).ok()?;
    serde_json::to_vec(&seal).ok()
}
