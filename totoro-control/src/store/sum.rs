//! A sum of what stands in sled: each key with its revision. sled forgets damaged pages in silence,
//! and whatever was in them; what is left then has another sum.
//!
//! Before a checkpoint begins, the sum that sled will have at its end is written to a file beside it,
//! with the revision of that end. A store that was killed in between has some of the checkpoint, and
//! all of it in the log: laid over each other they must have that sum.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::StoreError;
use super::record::Change;
use super::sync::create_whole;
use super::view::Layer;
use super::writer::{DATA, data_key, split};

/// The file's name in the store's directory.
const FILE: &str = "sum";

/// The sum, in which the order of changes does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum(u128);

impl Sum {
    /// A key of the tree comes or goes at this revision.
    pub(super) fn turn(&mut self, key: &[u8], revision: u64) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&revision.to_be_bytes()).update(key);
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        self.0 ^= u128::from_be_bytes(bytes);
    }

    /// The sum of all that is there.
    pub(super) fn of(tree: &::sled::Tree) -> Result<Self, StoreError> {
        let mut sum = Sum::default();
        for item in tree.range(vec![DATA]..vec![DATA + 1]) {
            let (key, stored) = item.map_err(StoreError::Engine)?;
            sum.turn(&key, split(&stored).0);
        }
        Ok(sum)
    }

    /// What it is once a layer has been written to this tree, of which it is the sum.
    pub(super) fn with(mut self, layer: &Layer, tree: &::sled::Tree) -> ::sled::Result<Self> {
        for (key, slot) in layer.iter() {
            let key = data_key(key);
            if let Some(before) = tree.get(&key)? {
                self.turn(&key, split(&before).0);
            }
            if slot.value.is_some() {
                self.turn(&key, slot.revision);
            }
        }
        Ok(self)
    }
}

/// The sum that sled has at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) revision: u64,
    pub(super) sum: Sum,
}

impl Target {
    /// The newest that was written; `None` where there is none.
    ///
    /// # Errors
    /// It is there and does not hold.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read_to_string(dir.join(FILE)) {
            Ok(text) => Target::parse(&text)
                .map(Some)
                .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes it durable in the place of the one before.
    pub(super) fn write(self, dir: &Path) -> io::Result<()> {
        create_whole(&dir.join(FILE), 0o600, self.text().as_bytes())
    }

    pub(super) fn text(self) -> String {
        let line = format!("{} {:032x}", self.revision, self.sum.0);
        let check = crc32fast::hash(line.as_bytes());
        format!("{line} {check:08x}\n")
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (line, _) = text.rsplit_once(' ')?;
        let (revision, sum) = line.split_once(' ')?;
        let target = Target {
            revision: revision.parse().ok()?,
            sum: Sum(u128::from_str_radix(sum, 16).ok()?),
        };
        (target.text() == text).then_some(target)
    }
}

/// What a log lays over sled, up to a revision: each key of the tree with the revision that it has
/// then; `None` = it was removed.
pub(super) struct Over {
    upto: u64,
    keys: BTreeMap<Vec<u8>, Option<u64>>,
}

impl Over {
    pub(super) const fn upto(revision: u64) -> Self {
        Over {
            upto: revision,
            keys: BTreeMap::new(),
        }
    }

    /// The log's next change.
    pub(super) fn take(&mut self, change: Change) {
        if change.revision <= self.upto {
            let stands = change.value.is_some().then_some(change.revision);
            self.keys.insert(data_key(&change.key), stands);
        }
    }

    /// Whether it says what stands under this key of the tree.
    pub(super) fn hides(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    /// Adds what it says to the sum of all that it does not hide.
    pub(super) fn complete(&self, mut rest: Sum) -> Sum {
        for (key, stands) in &self.keys {
            if let Some(revision) = stands {
                rest.turn(key, *revision);
            }
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_target_or_none_and_never_a_changed_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Target::read(dir.path()).unwrap(), None);
        let path = dir.path().join(FILE);
        for revision in [7, u64::MAX] {
            let mut sum = Sum::default();
            sum.turn(b"k", revision);
            let target = Target { revision, sum };
            target.write(dir.path()).unwrap();
            assert_eq!(Target::read(dir.path()).unwrap(), Some(target));
            let text = std::fs::read(&path).unwrap();
            for at in 0..text.len() {
                let mut changed = text.clone();
                changed[at] ^= 1;
                std::fs::write(&path, changed).unwrap();
                assert!(Target::read(dir.path()).is_err(), "byte {at}");
                std::fs::write(&path, &text[..at]).unwrap();
                assert!(Target::read(dir.path()).is_err(), "{at} bytes");
            }
        }
    }
}
