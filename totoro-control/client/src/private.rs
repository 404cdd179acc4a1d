//! Private places: what is written there holds codes, and is for this user alone.

use std::fs::{self, DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use tempfile::TempDir;

use crate::error::Error;

/// The largest file of a person's that is read, bytes.
const MAX_FILE: u64 = 256 << 10;

/// Where running programs have their files: the user's runtime directory, or one in /tmp.
///
/// # Errors
/// It can't be made, or is somebody else's.
pub fn runtime_dir() -> Result<PathBuf, Error> {
    let base = etcetera::choose_base_strategy().ok();
    let base = base.and_then(|base| base.runtime_dir());
    let dir = match base.filter(|base| base.is_dir()) {
        Some(base) => base.join("totoro"),
        None => std::env::temp_dir().join(format!("totoro-{}", nix::unistd::geteuid())),
    };
    own_dir(&dir)?;
    Ok(dir)
}

/// Where what is remembered lies: `~/.config/totoro`, or as XDG says.
///
/// # Errors
/// There is no home.
pub fn config_dir() -> Result<PathBuf, Error> {
    let base = etcetera::choose_base_strategy();
    let base = base.map_err(|error| Error::file("~/.config/totoro", error))?;
    Ok(base.config_dir().join("totoro"))
}

/// Makes a directory for this user alone, unless it is there.
///
/// # Errors
/// It can't be made, or is not ours alone: in /tmp another could have been first.
pub fn own_dir(dir: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| Error::file(dir, error))?;
    let meta = fs::symlink_metadata(dir).map_err(|error| Error::file(dir, error))?;
    let ours = meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw();
    if !ours || meta.mode() & 0o022 != 0 {
        return Err(Error::file(dir, "this directory is not yours alone"));
    }
    Ok(())
}

/// A directory of one run, removed with what is in it.
#[derive(Debug)]
pub struct PrivateDir(TempDir);

impl PrivateDir {
    /// A new one below the runtime directory.
    ///
    /// # Errors
    /// It can't be made.
    pub fn new() -> Result<Self, Error> {
        let base = runtime_dir()?;
        let dir = tempfile::Builder::new()
            .prefix("run-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&base);
        dir.map(PrivateDir)
            .map_err(|error| Error::file(base, error))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes one of its files, 0600.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path().join(name);
        write(&path, text)?;
        Ok(path)
    }
}

/// Puts a file in place whole, 0600.
///
/// # Errors
/// It can't be written.
pub fn write(path: &Path, text: &str) -> Result<(), Error> {
    let fail = |error: std::io::Error| Error::file(path, error);
    let dir = path.parent().unwrap_or(Path::new("."));
    // Made 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// Reads a file that holds a secret.
///
/// # Errors
/// It is not there, too large, no text, or readable by others.
pub fn read_secret(path: &Path) -> Result<String, Error> {
    let (file, text) = read(path)?;
    let mode = file.metadata().map_or(0o777, |meta| meta.mode());
    // A pipe (`<(pass show totoro)`) is nobody else's.
    let is_file = file.metadata().is_ok_and(|meta| meta.is_file());
    if is_file && mode & 0o077 != 0 {
        return Err(Error::Loose(path.to_owned()));
    }
    Ok(text)
}

/// Reads a text of a person's; the file, too, for its permissions.
///
/// # Errors
/// It is not there, too large, or no text.
pub fn read(path: &Path) -> Result<(File, String), Error> {
    let fail = |error: std::io::Error| Error::file(path, error);
    let file = File::open(path).map_err(fail)?;
    let mut text = String::new();
    let read = (&file).take(MAX_FILE + 1).read_to_string(&mut text);
    if read.map_err(fail)? as u64 > MAX_FILE {
        return Err(Error::file(
            path,
            format!("more than {} KiB", MAX_FILE >> 10),
        ));
    }
    Ok((file, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_private_and_goes() {
        let dir = PrivateDir::new().unwrap();
        let path = dir.write("frpc.toml", "secret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(dir.path()), mode(&path)), (0o700, 0o600));
        assert_eq!(read_secret(&path).unwrap(), "secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read_secret(&path), Err(Error::Loose(path.clone())));
        let gone = dir.path().to_owned();
        drop(dir);
        assert!(!gone.exists());
    }

    #[test]
    fn a_place_of_others_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let loose = dir.path().join("loose");
        fs::create_dir(&loose).unwrap();
        fs::set_permissions(&loose, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(own_dir(&loose).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(own_dir(&link).is_err());
        own_dir(&dir.path().join("a/b")).unwrap();
    }

    #[test]
    fn ten_megabytes_are_no_code() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        write(&path, &"x".repeat(10 << 20)).unwrap();
        assert!(matches!(read_secret(&path), Err(Error::File { .. })));
    }
}
