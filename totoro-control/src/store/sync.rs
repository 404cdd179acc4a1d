//! Making bytes durable. sled's own flush writes with `sync_file_range`, which asks neither the
//! file system nor the disk for anything: it survives a killed process, not a power cut.

use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::StoreError;

/// An own descriptor of sled's log, for fdatasync.
pub(super) struct LogFile {
    file: File,
    path: PathBuf,
}

impl LogFile {
    /// Opens the log of the store in `dir`.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("db");
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|source| StoreError::Io {
                doing: "open",
                path: path.clone(),
                source,
            })?;
        Ok(LogFile { file, path })
    }

    /// fdatasync: everything written to the log so far is on the disk when this returns.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|source| StoreError::Io {
            doing: "fdatasync",
            path: self.path.clone(),
            source,
        })
    }
}

/// Makes the store's directory where it is missing. The files in it hold the addresses of clients:
/// nobody else looks into it.
pub(super) fn make_dir(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes a file that is there whole and durably, in the place of what was there, or not at all.
pub(crate) fn create_whole(path: &Path, mode: u32, content: &[u8]) -> std::io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// fsync of the files, their directory and the directory's parent, or a power cut may leave a store
/// that was acknowledged without a name.
pub(super) fn sync_all(dir: &Path) -> Result<(), StoreError> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let dot = Path::new(".");
    for path in [
        &*dir.join("conf"),
        &*dir.join("db"),
        dir,
        parent.unwrap_or(dot),
    ] {
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(|source| StoreError::Io {
                doing: "fsync",
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(())
}
