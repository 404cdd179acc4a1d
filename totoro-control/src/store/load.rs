//! Filling a new store from a backup, and the directory that it is for.
//!
//! Everything is built in a directory of its own inside the target and moved out of it at the end.
//! While that directory exists the target is unfinished: nothing opens it, and another restore
//! begins anew.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::sync::{LogFile, sync_all};
use super::writer::{Head, data_key, join};
use super::{Entry, SnapshotHead, StoreError};
use super::{ground, seal};

/// Where an unfinished restore lies in its target.
pub const STAGING: &str = "restoring";
/// What is written at once, bytes: sled's memory grows with what is not flushed.
const BATCH: usize = 1 << 20;
/// Revisions left out after a restore: the lost store went on after the backup, and nobody may be
/// given a revision that it gave, for an ETag or a cursor of then would fit something else.
const LOST: u64 = 1 << 40;

/// A directory that a store is restored into.
pub struct Target {
    dir: PathBuf,
}

impl Target {
    /// Takes an empty or missing directory, or one that an earlier restore did not finish.
    ///
    /// # Errors
    /// When something else is in it, or the disk fails.
    pub fn claim(dir: &Path) -> Result<Self, StoreError> {
        let target = Target {
            dir: dir.to_owned(),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(target.io("create"))?;
        if is_unfinished(dir) {
            // The mark goes last, or a kill in between would leave half of it without one.
            for path in target.others()? {
                remove(&path).map_err(target.io("clear"))?;
            }
            remove(&target.staging()).map_err(target.io("clear"))?;
        }
        if let Some(other) = target.others()?.first() {
            return Err(StoreError::Unusable {
                path: dir.to_owned(),
                problem: format!(
                    "{} is in it; restore into an empty directory",
                    other.display()
                ),
            });
        }
        DirBuilder::new()
            .mode(0o700)
            .create(target.staging())
            .and_then(|()| sync(dir))
            .map_err(target.io("create"))?;
        Ok(target)
    }

    /// Where to build it.
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.dir.join(STAGING)
    }

    /// Moves what was built to its place; the target is finished.
    ///
    /// # Errors
    /// When the disk fails; then it stays unfinished.
    pub fn finish(self) -> Result<(), StoreError> {
        let staging = self.staging();
        let moved = || -> io::Result<()> {
            for entry in std::fs::read_dir(&staging)? {
                let entry = entry?;
                std::fs::rename(entry.path(), self.dir.join(entry.file_name()))?;
            }
            // First the names, then the mark: a power cut must not undo them in another order.
            sync(&self.dir)?;
            std::fs::remove_dir(&staging)?;
            sync(&self.dir)
        };
        moved().map_err(self.io("finish"))
    }

    /// What is in it beside the staging directory.
    fn others(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut others = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(self.io("list"))? {
            let entry = entry.map_err(self.io("list"))?;
            // A file system's own directory is in every fresh one.
            if entry.file_name() != STAGING && entry.file_name() != "lost+found" {
                others.push(entry.path());
            }
        }
        Ok(others)
    }

    fn io(&self, doing: &'static str) -> impl Fn(io::Error) -> StoreError + use<> {
        let path = self.dir.clone();
        move |source| StoreError::Io {
            doing,
            path: path.clone(),
            source,
        }
    }
}

/// Whether a restore into this directory was not finished.
#[must_use]
pub fn is_unfinished(dir: &Path) -> bool {
    dir.join(STAGING).exists()
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata()?.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes entries, with their revisions, into a new store.
pub struct Loader {
    dir: PathBuf,
    db: ::sled::Db,
    batch: ::sled::Batch,
    waiting: usize,
}

impl Loader {
    /// A new store in this directory.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn create(dir: &Path) -> Result<Self, StoreError> {
        let db = ::sled::Config::new()
            .path(dir)
            .flush_every_ms(None)
            .open()
            .map_err(StoreError::Engine)?;
        Ok(Loader {
            dir: dir.to_owned(),
            db,
            batch: ::sled::Batch::default(),
            waiting: 0,
        })
    }

    /// The next entry.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn put(&mut self, (key, found): &Entry) -> Result<(), StoreError> {
        let stored = join(found.revision, &found.value);
        self.waiting += key.len() + stored.len();
        self.batch.insert(data_key(key), stored);
        if self.waiting >= BATCH {
            self.write()?;
        }
        Ok(())
    }

    /// Makes it a store, durably.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn finish(mut self, head: SnapshotHead) -> Result<(), StoreError> {
        let SnapshotHead {
            schema,
            revision,
            day,
        } = head;
        let revision = revision.saturating_add(LOST);
        // Segments of the trail that were read after the snapshot may be of the next day: what is
        // appended from now on comes after them whatever the clock says.
        let day = day.saturating_add(1);
        ground::found(&mut self.batch, schema, Head { revision, day });
        self.write()?;
        LogFile::open(&self.dir)?.sync()?;
        let Loader { dir, db, .. } = self;
        drop(db);
        seal::wait_until_free(&dir).map_err(|source| StoreError::Io {
            doing: "close",
            path: dir.clone(),
            source,
        })?;
        sync_all(&dir)
    }

    fn write(&mut self) -> Result<(), StoreError> {
        let batch = std::mem::take(&mut self.batch);
        self.waiting = 0;
        self.db.apply_batch(batch).map_err(StoreError::Engine)?;
        self.db.flush().map_err(StoreError::Engine)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_or_unfinished_target_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("data");
        let target = Target::claim(&at).unwrap();
        assert!(is_unfinished(&at));
        // Killed while it moved: some files are out, some are not.
        std::fs::write(at.join("db"), b"half").unwrap();
        std::fs::write(target.staging().join("conf"), b"half").unwrap();
        drop(target);
        let again = Target::claim(&at).unwrap();
        assert!(!at.join("db").exists() && !again.staging().join("conf").exists());
        std::fs::write(again.staging().join("db"), b"whole").unwrap();
        again.finish().unwrap();
        assert!(!is_unfinished(&at));
        let refused = Target::claim(&at).err().unwrap().to_string();
        assert!(refused.contains("an empty directory"), "{refused}");
        assert_eq!(std::fs::read(at.join("db")).unwrap(), b"whole");
    }
}
