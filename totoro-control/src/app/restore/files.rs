//! Files of a restore: durable, and whole or not at all.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::RestoreError;
use crate::app::backup::AUDIT;
use crate::keys::create_secret;

/// A segment of the trail in the staging directory.
pub(super) fn create_segment(staging: &Path, name: &str) -> Result<(PathBuf, File), RestoreError> {
    let path = staging.join(name);
    let dir = staging.join(AUDIT);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(io("create", &dir))?;
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(io("create", &path))?;
    Ok((path, file))
}

pub(super) fn close(segment: Option<(PathBuf, File)>) -> Result<(), RestoreError> {
    match segment {
        Some((path, file)) => file.sync_all().map_err(io("write", &path)),
        None => Ok(()),
    }
}

/// A secret file, whole or not at all: a restore that was killed is repeated over it.
pub(super) fn place_secret(path: &Path, bytes: &[u8]) -> Result<(), RestoreError> {
    if path.exists() {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    let begun = path.with_file_name(name);
    if begun.exists() {
        std::fs::remove_file(&begun).map_err(io("remove", &begun))?;
    }
    create_secret(&begun, bytes)?;
    std::fs::rename(&begun, path).map_err(io("create", path))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), RestoreError> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(io("create", path))?;
    let header = "# Totoro's control plane, from a backup. Secrets are in secrets/, mode 0600.\n";
    file.write_all(header.as_bytes())
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.sync_all())
        .map_err(io("write", path))
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), RestoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io("fsync", dir))
}

pub(super) fn io(
    doing: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> RestoreError + use<> {
    let path = path.to_owned();
    move |source| RestoreError::Io {
        doing,
        path,
        source,
    }
}
