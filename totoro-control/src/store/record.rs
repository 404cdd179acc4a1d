//! The log's records: the changes of one batch, with a length and a checksum.

use std::ops::Range;

use super::writer::Head;

/// Length and checksum.
const FRAME: usize = 8;
/// No record is longer, bytes: 512 commits are far below it.
const MAX_RECORD: usize = 1 << 31;
/// What a record keeps of its memory for the next one, bytes: more than most batches take.
const KEPT: usize = 1 << 20;
/// Stands for the length of a value that was removed.
const REMOVED: u32 = u32::MAX;

/// One change in a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: Vec<u8>,
    pub(super) revision: u64,
    /// `None` = removed.
    pub(super) value: Option<Vec<u8>>,
}

/// A record in the making: the changes of one batch, and where the store stands after it.
pub(super) struct Record {
    bytes: Vec<u8>,
    /// Where the keys are in it, in order.
    keys: Vec<Range<usize>>,
}

impl Record {
    pub(super) fn new() -> Self {
        Record {
            bytes: vec![0; FRAME + Head::LEN],
            keys: Vec::new(),
        }
    }

    /// Makes it empty again; what memory it has it keeps.
    pub(super) fn clear(&mut self) {
        self.bytes.truncate(FRAME + Head::LEN);
        self.bytes.shrink_to(KEPT);
        self.keys.clear();
        self.keys.shrink_to(KEPT / 64);
    }

    /// Adds a change.
    pub(super) fn push(&mut self, key: &[u8], revision: u64, value: Option<&[u8]>) {
        // Keys and values are within the store's limits.
        let length = |part: &[u8]| u32::try_from(part.len()).unwrap_or(REMOVED - 1);
        let bytes = &mut self.bytes;
        bytes.extend_from_slice(&revision.to_le_bytes());
        bytes.extend_from_slice(&length(key).to_le_bytes());
        bytes.extend_from_slice(&value.map_or(REMOVED, length).to_le_bytes());
        let at = bytes.len();
        bytes.extend_from_slice(key);
        self.keys.push(at..bytes.len());
        bytes.extend_from_slice(value.unwrap_or_default());
    }

    /// How many changes there are.
    pub(super) const fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys of some of its changes.
    pub(super) fn keys(&self, changes: Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.keys[changes].iter().map(|at| &self.bytes[at.clone()])
    }

    /// As it is written.
    pub(super) fn finish(&mut self, head: Head) -> &[u8] {
        self.bytes[FRAME..FRAME + Head::LEN].copy_from_slice(&head.encode());
        let payload = &self.bytes[FRAME..];
        let sum = crc32fast::hash(payload);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_le_bytes());
        self.bytes[4..FRAME].copy_from_slice(&sum.to_le_bytes());
        &self.bytes
    }
}

/// The first record of some bytes, and what follows it; `None` where none holds.
pub(super) fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    let (sum, rest) = number(rest)?;
    let length = usize::try_from(length).ok()?;
    // What was never written may read as zeros, which are no record: each has a head.
    if !(Head::LEN..MAX_RECORD).contains(&length) {
        return None;
    }
    let (payload, after) = rest.split_at_checked(length)?;
    (crc32fast::hash(payload) == sum).then_some((payload, after))
}

/// Gives the changes of a record's payload, behind its head, to `take`; `None` where they cannot be
/// read.
pub(super) fn changes(mut bytes: &[u8], take: &mut impl FnMut(Change)) -> Option<()> {
    while !bytes.is_empty() {
        let (revision, rest) = bytes.split_first_chunk::<8>()?;
        let (key, rest) = number(rest)?;
        let (value, rest) = number(rest)?;
        let (key, rest) = rest.split_at_checked(usize::try_from(key).ok()?)?;
        let length = if value == REMOVED { 0 } else { value };
        let (bytes_of, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        take(Change {
            key: key.to_vec(),
            revision: u64::from_le_bytes(*revision),
            value: (value != REMOVED).then(|| bytes_of.to_vec()),
        });
        bytes = rest;
    }
    Some(())
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}
