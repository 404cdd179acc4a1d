//! A lower bound of what is durable, beside the log. sled takes a damaged message for the torn end
//! of its log and forgets all that follows; the witness tells a torn end from a lost one.
//!
//! It is written after each batch is durable and never synced: a killed process leaves the newest,
//! a power cut an older one, and neither leaves one that the log does not reach.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

const WITNESS: &str = "durable";
const DIGITS: usize = 20;

/// The witness's file, open.
pub(super) struct Witness(File);

impl Witness {
    /// Opens it, or makes it.
    pub(super) fn open(dir: &Path) -> std::io::Result<Self> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        options.open(dir.join(WITNESS)).map(Witness)
    }

    /// Notes that all up to this revision is durable. An older note is true as well, so failing to
    /// write is no reason to stop.
    pub(super) fn note(&self, revision: u64) {
        let line = format!("{revision:0DIGITS$}\n");
        if let Err(error) = self.0.write_all_at(line.as_bytes(), 0) {
            tracing::warn!(%error, "cannot note what is durable");
        }
    }
}

/// What was durable at least; 0 where nothing is known.
pub(super) fn read(dir: &Path) -> u64 {
    let text = std::fs::read_to_string(dir.join(WITNESS)).unwrap_or_default();
    let line = text.strip_suffix('\n').filter(|line| line.len() == DIGITS);
    line.and_then(|line| line.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_note_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()), 0);
        let witness = Witness::open(dir.path()).unwrap();
        for revision in [9, u64::MAX, 10] {
            witness.note(revision);
            assert_eq!(read(dir.path()), revision);
        }
        std::fs::write(dir.path().join(WITNESS), "12").unwrap();
        assert_eq!(read(dir.path()), 0);
    }
}
