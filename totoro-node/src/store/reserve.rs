//! Room that is kept for the day when the disk is full: without any, what was delivered could not
//! even be forgotten, for that is a write too.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The file's name in the state's directory.
pub(super) const NAME: &str = "reserve";
/// More than one forgetting takes, bytes.
const SIZE: usize = 2 << 20;

/// A file that only takes room.
#[derive(Debug)]
pub(super) struct Reserve(PathBuf);

impl Reserve {
    pub(super) fn under(dir: &Path) -> Reserve {
        Reserve(dir.join(NAME))
    }

    /// Takes the room, unless it is taken or there is none.
    pub(super) fn keep(&self) {
        if self.0.exists() {
            return;
        }
        // Written, not only made long: a hole takes no room.
        let kept = File::create(&self.0).and_then(|mut file| file.write_all(&vec![0; SIZE]));
        if kept.is_err() {
            self.give();
        }
    }

    /// Gives the room back; whether there was any.
    pub(super) fn give(&self) -> bool {
        fs::remove_file(&self.0).is_ok()
    }
}
