//! A sum of what stands in sled: each key with its revision. sled forgets damaged pages in silence,
//! and whatever was in them; what is left then has another sum.
//!
//! It is written with the end of each checkpoint and removed with the beginning: of a store that was
//! killed in between nobody can tell, since some of the checkpoint is there and some is not.

use super::StoreError;
use super::writer::{DATA, Head, split};

/// Where it stands, with the revision that it is of.
const KEY: &[u8] = b"msum";

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

    /// The sum that was written at `head`.
    pub(super) fn read(tree: &::sled::Tree, head: Head) -> ::sled::Result<Option<Self>> {
        let stored = tree.get(KEY)?;
        Ok(stored.and_then(|stored| {
            let (revision, sum) = split(&stored);
            let sum = u128::from_be_bytes(sum.try_into().ok()?);
            (revision == head.revision).then_some(Sum(sum))
        }))
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

    /// Notes that the entries change from now on.
    pub(super) fn begin(tree: &::sled::Tree) -> ::sled::Result<()> {
        tree.remove(KEY).map(drop)
    }

    /// Writes it: the entries are those of `head`.
    pub(super) fn write(self, tree: &::sled::Tree, head: Head) -> ::sled::Result<()> {
        let stored = super::writer::join(head.revision, &self.0.to_be_bytes());
        tree.insert(KEY, stored).map(drop)
    }
}
