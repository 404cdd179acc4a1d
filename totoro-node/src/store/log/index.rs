//! Where in the log everything stands that lives. Values stay on the disk.

use std::collections::BTreeMap;

use super::format::{Kind, Op};
use crate::spool::{Entry, Waiting};
use crate::store::META;

/// Where an op stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    /// The file's number.
    pub(crate) file: u32,
    /// From the file's beginning, bytes.
    pub(crate) at: u32,
    /// Bytes.
    pub(crate) length: u32,
}

/// What stands for a key: keys take more memory than all the rest, and they are in the log. Nobody
/// finds two keys with one hash.
type Hash = [u8; 16];

fn hash(key: &[u8]) -> Hash {
    let mut hash = [0; 16];
    hash.copy_from_slice(&blake3::hash(key).as_bytes()[..16]);
    hash
}

/// What one file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    /// Up to where there are frames, bytes.
    end: u64,
    /// What of it lives, bytes.
    live: u64,
}

/// What the files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    files: BTreeMap<u32, Held>,
    live: u64,
    used: u64,
}

impl Space {
    fn take(&mut self, spot: Spot) {
        let length = u64::from(spot.length);
        self.files.entry(spot.file).or_default().live += length;
        self.live += length;
    }

    fn free(&mut self, spot: Spot) {
        let length = u64::from(spot.length);
        if let Some(held) = self.files.get_mut(&spot.file) {
            held.live -= length;
        }
        self.live -= length;
    }

    /// A file has frames up to there.
    pub(super) fn ends(&mut self, file: u32, end: u64) {
        let held = self.files.entry(file).or_default();
        self.used = self.used - held.end + end;
        held.end = end;
    }

    /// Up to where a file has frames, bytes.
    pub(super) fn end(&self, file: u32) -> u64 {
        self.files.get(&file).map_or(0, |held| held.end)
    }

    /// Whether anything lives in a file.
    pub(super) fn is_dead(&self, file: u32) -> bool {
        self.files.get(&file).is_none_or(|held| held.live == 0)
    }

    /// A file is no more there.
    pub(super) fn forget(&mut self, file: u32) {
        self.used -= self.files.remove(&file).map_or(0, |held| held.end);
    }

    /// What lives, bytes.
    pub(super) const fn live(&self) -> u64 {
        self.live
    }

    /// What is written, bytes.
    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    /// The longest file's, bytes.
    pub(super) fn longest(&self) -> u64 {
        self.files.values().map(|held| held.end).max().unwrap_or(0)
    }
}

/// Where everything stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// Trees: a hash table's doubling takes twice the memory from one entry to the next.
    tables: BTreeMap<u8, BTreeMap<Hash, Spot>>,
    pub(super) waiting: Waiting,
    pub(super) space: Space,
    /// The oldest file that is needed.
    pub(super) oldest: u32,
}

impl Index {
    /// Takes in the ops of a frame, which stand at `at` in a file: those of a start and those that
    /// have just become durable alike. `None` where they can't be read.
    pub(super) fn apply(&mut self, ops: &[u8], file: u32, at: u64) -> Option<()> {
        let mut rest = ops;
        while !rest.is_empty() {
            let op = Op::first(rest)?;
            let begin = at + (ops.len() - rest.len()) as u64;
            rest = &rest[op.len()..];
            let spot = Spot {
                file,
                at: u32::try_from(begin).ok()?,
                length: u32::try_from(op.len()).ok()?,
            };
            self.take_in(op, spot)?;
        }
        Some(())
    }

    fn take_in(&mut self, op: Op<'_>, spot: Spot) -> Option<()> {
        let Index {
            tables,
            waiting,
            space,
            oldest,
        } = self;
        match op.kind {
            Kind::Put => {
                space.take(spot);
                let table = tables.entry(op.flag).or_default();
                if let Some(before) = table.insert(hash(op.key), spot) {
                    space.free(before);
                }
                if op.flag == META.number {
                    waiting.note(op.key, op.value, |spot| space.free(spot))?;
                }
            }
            Kind::Remove => {
                let table = tables.get_mut(&op.flag);
                if let Some(before) = table.and_then(|table| table.remove(&hash(op.key))) {
                    space.free(before);
                }
            }
            Kind::Event => {
                space.take(spot);
                let entry = Entry {
                    seq: op.seq()?,
                    spot,
                    sampled: op.flag != 0,
                };
                waiting.put(entry, |spot| space.free(spot));
            }
            Kind::Drop => {
                let (seqs, []) = op.value.as_chunks::<8>() else {
                    return None;
                };
                let seqs: Vec<u64> = seqs.iter().copied().map(u64::from_le_bytes).collect();
                waiting.drop(&seqs, |spot| space.free(spot));
            }
            Kind::Oldest => *oldest = u32::from_le_bytes(op.value.try_into().ok()?),
        }
        Some(())
    }

    /// Forgets what the control plane has.
    pub(super) fn forget(&mut self, seq: u64) {
        let space = &mut self.space;
        self.waiting.forget(seq, |spot| space.free(spot));
    }

    /// Whether an op that stands there lives.
    pub(super) fn lives(&self, op: &Op<'_>, spot: Spot) -> bool {
        let found = match op.kind {
            Kind::Put => self.find(op.flag, op.key),
            Kind::Event => op.seq().and_then(|seq| Some(self.waiting.find(seq)?.spot)),
            Kind::Remove | Kind::Drop | Kind::Oldest => None,
        };
        found == Some(spot)
    }

    /// Where a record stands.
    pub(super) fn find(&self, table: u8, key: &[u8]) -> Option<Spot> {
        self.tables.get(&table)?.get(&hash(key)).copied()
    }

    /// Where the records of a table stand, in the log's order.
    pub(super) fn all(&self, table: u8) -> Vec<Spot> {
        let table = self.tables.get(&table);
        let mut spots: Vec<Spot> = table
            .into_iter()
            .flat_map(BTreeMap::values)
            .copied()
            .collect();
        spots.sort_unstable();
        spots
    }
}
