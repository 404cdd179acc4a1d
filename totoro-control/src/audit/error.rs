//! Why the trail's segments cannot be read or written.

use std::io;
use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// What failed, on which file.
#[derive(Debug, thiserror::Error)]
pub enum TrailError {
    /// The system refused.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The segments hold events of revisions that the store has yet to give out.
    #[error(
        "{path} ends at revision {segments}, but the store stands at {store}: it is older than its \
         audit trail; restore both from one backup, or move the directory away to begin a new trail"
    )]
    StoreBehind {
        /// The segments' directory.
        path: PathBuf,
        /// The newest revision in the segments.
        segments: u64,
        /// The store's own.
        store: u64,
    },
    /// A line that does not hold.
    #[error("{path} is damaged at byte {at}: restore it from a backup")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where the line begins.
        at: u64,
    },
    /// The event or record could not be encoded, or the work was broken off.
    #[error("{0}")]
    Failed(String),
}

/// Names what was being done to which file.
pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TrailError + use<> {
    let path = path.to_owned();
    move |source| TrailError::Io {
        doing,
        path,
        source,
    }
}

/// fsync of a directory: the names in it are durable when this returns.
pub(super) fn sync_dir(dir: &Path) -> Result<(), TrailError> {
    std::fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io("fsync", dir))
}
