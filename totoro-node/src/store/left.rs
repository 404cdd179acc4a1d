//! What a daemon left, looked at: nothing is changed, and nobody is kept from it.

use std::path::Path;

use anyhow::Result;
use serde::de::DeserializeOwned;

use super::log::Look;
use super::{Records, Store, read, take_over};

/// Where single records are read from.
pub trait Get {
    /// One record.
    ///
    /// # Errors
    /// The disk, or a record that can't be read.
    fn get<T: DeserializeOwned>(&self, records: Records, key: &str) -> Result<Option<T>>;
}

impl Get for Store {
    fn get<T: DeserializeOwned>(&self, records: Records, key: &str) -> Result<Option<T>> {
        Store::get(self, records, key)
    }
}

/// The state under a directory, as it was when it was looked at.
pub struct Left(Option<Look>);

impl Left {
    /// Looks. Where an earlier version's state is to be taken over, as where there is none, nothing is known.
    ///
    /// # Errors
    /// It is damaged, or of a later version; or the disk.
    pub fn under(dir: &Path) -> Result<Left> {
        // The next start goes by that one, whatever log is beside it.
        if dir.join(take_over::STATE).exists() {
            return Ok(Left(None));
        }
        Look::at(dir).map(Left)
    }
}

impl Get for Left {
    fn get<T: DeserializeOwned>(&self, records: Records, key: &str) -> Result<Option<T>> {
        let Some(look) = &self.0 else {
            return Ok(None);
        };
        let spot = look.find(records.number, key);
        let read = |spot| Ok(read(&mut look.reader(), spot)?.1);
        spot.map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::time::SystemTime;

    use super::*;
    use crate::store::{Changes, META};

    /// Every file, as it is.
    fn files(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
        let entries = fs::read_dir(dir).unwrap().flatten();
        let file = |entry: fs::DirEntry| {
            let changed = entry.metadata().unwrap().modified().unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, (fs::read(entry.path()).unwrap(), changed))
        };
        entries.map(file).collect()
    }

    fn number(dir: &Path) -> Result<Option<u32>> {
        Left::under(dir)?.get(META, "number")
    }

    #[test]
    fn a_look_finds_what_was_written_last_and_changes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("state");
        assert_eq!(number(&dir).unwrap(), None);
        assert!(!dir.exists(), "nor makes it");
        let store = Store::open(&dir).unwrap();
        for value in 1..=3_u32 {
            let mut changes = Changes::default();
            changes.put(META, "number", &value);
            store.commit(&changes).unwrap();
        }
        let before = files(&dir);
        assert_eq!(
            number(&dir).unwrap(),
            Some(3),
            "beside one that has the lock"
        );
        drop(store);
        assert_eq!(number(&dir).unwrap(), Some(3));
        assert_eq!(files(&dir), before);
        // Under an earlier version's state, which is the next start's to take over.
        fs::write(dir.join(take_over::STATE), "").unwrap();
        assert_eq!(number(&dir).unwrap(), None);
        fs::remove_file(dir.join(take_over::STATE)).unwrap();
        assert_eq!(files(&dir), before);
    }

    #[test]
    fn what_is_damaged_is_told_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for value in 1..=2_u32 {
            let mut changes = Changes::default();
            changes.put(META, "number", &value);
            store.commit(&changes).unwrap();
        }
        drop(store);
        let log = dir.path().join("log.0000000001");
        let mut bytes = fs::read(&log).unwrap();
        let first = bytes.windows(6).position(|at| at == b"number").unwrap();
        bytes[first] ^= 1;
        fs::write(&log, bytes).unwrap();
        let before = files(dir.path());
        let error = number(dir.path()).unwrap_err();
        assert!(format!("{error:#}").contains("damaged"), "{error:#}");
        assert_eq!(files(dir.path()), before);
    }
}
