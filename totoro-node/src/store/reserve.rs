//! Room that is kept for the day when the disk is full: without any, what was delivered could not
//! even be forgotten, for that is a write too.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The file's name in the state's directory.
pub(super) const NAME: &str = "reserve";
/// The file's name until it is whole.
pub(super) const PART: &str = "reserve.part";
/// More than one forgetting takes, bytes.
const SIZE: usize = 2 << 20;

/// A file that only takes room.
#[derive(Debug)]
pub(super) struct Reserve {
    whole: PathBuf,
    part: PathBuf,
}

impl Reserve {
    pub(super) fn under(dir: &Path) -> Reserve {
        Reserve {
            whole: dir.join(NAME),
            part: dir.join(PART),
        }
    }

    /// Takes the room, unless it is taken or there is none.
    pub(super) fn keep(&self) {
        // A short one is from a daemon that wrote it in its place, and was killed meanwhile.
        if fs::metadata(&self.whole).is_ok_and(|file| file.len() == SIZE as u64) {
            return;
        }
        if self.write().is_err() {
            let _ = fs::remove_file(&self.part);
        }
    }

    fn write(&self) -> io::Result<()> {
        let mut file = File::create(&self.part)?;
        // Written, not only made long: a hole takes no room.
        file.write_all(&vec![0; SIZE])?;
        // Before it has its name: some file systems find out only now that there is no room.
        file.sync_all()?;
        fs::rename(&self.part, &self.whole)
    }

    /// Gives the room back; whether there was any.
    pub(super) fn give(&self) -> bool {
        let given = [&self.whole, &self.part].map(|path| fs::remove_file(path).is_ok());
        given.contains(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_was_not_written_to_its_end_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let names = || -> Vec<_> {
            let entries = fs::read_dir(dir.path()).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        let reserve = Reserve::under(dir.path());
        for name in [NAME, PART] {
            fs::write(dir.path().join(name), [0; 10]).unwrap();
        }
        reserve.keep();
        assert_eq!(names(), [NAME]);
        let kept = fs::metadata(dir.path().join(NAME)).unwrap();
        assert_eq!(kept.len(), SIZE as u64);
        assert!(reserve.give() && names().is_empty());
        assert!(!reserve.give(), "there is none any more");
    }

    #[test]
    fn what_has_no_room_leaves_no_part_behind() {
        let dir = tempfile::tempdir().unwrap();
        // Stands for a full disk: the file can't get its name.
        fs::create_dir(dir.path().join(NAME)).unwrap();
        let reserve = Reserve::under(dir.path());
        reserve.keep();
        assert!(!dir.path().join(PART).exists());
    }
}
