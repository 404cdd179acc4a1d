//! Secret files: mode 0600, made whole and durably or not at all, refused when others could read
//! them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The largest secret file that is read, bytes.
const MAX_SECRET: u64 = 4096;

/// Why a secret file cannot be used. Never says what is in it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Others could read it.
    #[error("{path} has mode {mode:o}; it holds a secret: chmod 600 it")]
    Loose {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Too large to be one of ours.
    #[error("{path} is larger than {MAX_SECRET} bytes: not a secret file of ours")]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// Not what should be in it.
    #[error("{path} does not hold {expected}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What should.
        expected: &'static str,
    },
}

/// Makes a new secret file; never overwrites one.
///
/// # Errors
/// When it exists or the disk fails.
pub fn create_secret(path: &Path, secret: &[u8]) -> Result<(), FileError> {
    let io = |doing: &'static str| {
        let path = path.to_owned();
        move |source| FileError::Io {
            doing,
            path,
            source,
        }
    };
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if !dir.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io("create the directory of"))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io("create"))?;
    file.write_all(secret)
        .and_then(|()| file.sync_all())
        .map_err(io("write"))?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io("fsync the directory of"))
}

/// Reads a secret file that nobody else can read.
///
/// # Errors
/// When it is not there, not private or too large.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, FileError> {
    let io = |source| FileError::Io {
        doing: "read",
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let about = file.metadata().map_err(io)?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Loose {
            path: path.to_owned(),
            mode,
        });
    }
    let mut secret = Vec::new();
    file.take(MAX_SECRET + 1)
        .read_to_end(&mut secret)
        .map_err(io)?;
    if secret.len() as u64 > MAX_SECRET {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secrets/one");
        create_secret(&path, b"x").unwrap();
        assert_eq!(read_secret(&path).unwrap(), b"x");
        assert!(create_secret(&path, b"y").is_err(), "never overwritten");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            read_secret(&path),
            Err(FileError::Loose { mode: 0o640, .. })
        ));
    }
}
