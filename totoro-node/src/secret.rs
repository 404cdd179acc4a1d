//! Secrets in files and from the system's randomness.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The longest secret file, bytes.
const MAX_LEN: u64 = 4096;

/// `N` random bytes.
///
/// # Panics
/// When the kernel gives no randomness, without which nothing here can be safe.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives randomness");
    bytes
}

/// 128 random bits, hex.
#[must_use]
pub fn random_hex() -> String {
    format!("{:032x}", u128::from_ne_bytes(random()))
}

/// 256 random bits, base64url: 43 characters.
#[must_use]
pub fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(random::<32>())
}

/// Reads a one-line secret from a file that only its owner may read.
///
/// # Errors
/// It can't be read, others may read it, or it is empty or too long. Never with its content.
pub fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let file = fs::File::open(path).with_context(|| format!("open {shown}"))?;
    let mode = file
        .metadata()
        .with_context(|| format!("look at {shown}"))?
        .permissions()
        .mode();
    ensure!(
        mode & 0o077 == 0,
        "{shown} can be read by others (mode {:o}); chmod 600 {shown}",
        mode & 0o777
    );
    let mut text = String::new();
    file.take(MAX_LEN + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("read {shown}"))?;
    let text = text.trim();
    ensure!(!text.is_empty(), "{shown} is empty");
    ensure!(
        text.len() as u64 <= MAX_LEN,
        "{shown} is too long for a secret"
    );
    Ok(text.to_owned())
}

/// Writes a file for its owner only, whole or not at all: a temporary file beside it, synced and
/// renamed.
///
/// # Errors
/// The operation on the path.
pub fn write(path: &Path, content: &str) -> Result<()> {
    write_mode(path, content, 0o600)
}

/// As [`write`], with another mode.
///
/// # Errors
/// The operation on the path.
pub fn write_mode(path: &Path, content: &str, mode: u32) -> Result<()> {
    let parent = match path.parent().context("a file has a directory")? {
        // Of a bare name: where we are.
        parent if parent.as_os_str().is_empty() => Path::new("."),
        parent => parent,
    };
    let name = path
        .file_name()
        .context("a file has a name")?
        .to_string_lossy();
    let part = parent.join(format!(".{name}.{}", std::process::id()));
    let result = write_part(&part, content, mode).and_then(|()| fs::rename(&part, path));
    if result.is_err() {
        let _ = fs::remove_file(&part);
    }
    result.with_context(|| format!("write {}", path.display()))?;
    fs::File::open(parent)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("sync {}", parent.display()))
}

fn write_part(part: &Path, content: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(part)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

/// A secret from the environment variable `env`, a file, or standard input, in this order.
///
/// # Errors
/// None of them has one.
pub fn from_env_file_or_stdin(env: &str, file: Option<&Path>) -> Result<String> {
    if let Ok(text) = std::env::var(env)
        && !text.trim().is_empty()
    {
        return Ok(text.trim().to_owned());
    }
    if let Some(file) = file {
        return read(file);
    }
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(MAX_LEN)
        .read_to_string(&mut text)
        .context("read standard input")?;
    if text.trim().is_empty() {
        bail!("no secret: set {env}, name a file, or write it to standard input");
    }
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_may_read_a_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, "s3cret\n").unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(read(&path).unwrap(), "s3cret");
        write(&path, "another").unwrap();
        assert_eq!(read(&path).unwrap(), "another");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no part stays"
        );

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.contains("chmod 600") && !error.contains("another"),
            "{error}"
        );
        write(&path, " \n").unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn a_bare_name_is_written_where_we_are() {
        // The whole process has one working directory, so the file goes into the crate's, and away.
        let name = format!(".bare-{}", std::process::id());
        let written = write(Path::new(&name), "s3cret");
        let there = fs::remove_file(&name);
        written.unwrap();
        there.unwrap();
    }

    #[test]
    fn random_texts_differ_and_have_their_length() {
        assert_eq!(random_hex().len(), 32);
        assert_eq!(random_text().len(), 43);
        assert_ne!(random_hex(), random_hex());
    }
}
