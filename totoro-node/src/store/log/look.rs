//! A log for who only looks: as it lies on the disk, without a lock, and left as it is.

use std::path::Path;

use anyhow::{Context, Result};

use super::disk::Disk;
use super::index::{Index, Spot};
use super::read::Reader;
use super::replay::replay;

/// What a log holds.
pub(crate) struct Look {
    disk: Disk,
    index: Index,
}

impl Look {
    /// Reads the log of a directory; `None` where there is none.
    ///
    /// # Errors
    /// It is damaged, or of a later version; or the disk.
    pub(crate) fn at(dir: &Path) -> Result<Option<Look>> {
        let is_there = dir.try_exists();
        if !is_there.with_context(|| format!("look for {}", dir.display()))? {
            return Ok(None);
        }
        let disk = Disk::under(dir);
        // A daemon that begins just now may give one of its files another name before it is read: once more then.
        let (index, tail) = replay(&disk).or_else(|_| replay(&disk))?;
        Ok(tail.map(|_| Look { disk, index }))
    }

    /// Where a record stands.
    pub(crate) fn find(&self, table: u8, key: &str) -> Option<Spot> {
        self.index.find(table, key.as_bytes())
    }

    /// Reads what stands somewhere.
    pub(crate) const fn reader(&self) -> Reader<'_> {
        Reader::new(&self.disk)
    }
}
