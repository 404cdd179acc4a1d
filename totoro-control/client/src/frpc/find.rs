//! Which frpc is run, and whether it is new enough.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use semver::Version;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::error::Error;
use crate::told::clean;

/// The oldest release that fetches tickets by itself as ours do (docs/client.md has what was tried).
pub const OLDEST: Version = Version::new(0, 61, 0);
/// How long it may take to tell its version, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(20);
/// As much of its answer is read, bytes.
const MAX_SAID: u64 = 4096;

/// An frpc that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frpc {
    /// Where it is.
    pub path: PathBuf,
    /// Its release.
    pub version: Version,
}

impl Frpc {
    /// Where the given one is, or the first in `PATH`.
    ///
    /// # Errors
    /// There is none.
    pub fn locate(given: Option<&Path>) -> Result<PathBuf, Error> {
        match given {
            Some(path) => Ok(path.to_owned()),
            None => in_path().ok_or(Error::FrpcMissing),
        }
    }

    /// The given one, or the first in `PATH`.
    ///
    /// # Errors
    /// There is none, it does not run, or it is too old.
    pub async fn find(given: Option<&Path>) -> Result<Self, Error> {
        let path = Frpc::locate(given)?;
        let fails = |said: &str| Error::FrpcFails {
            path: path.clone(),
            said: clean(said),
        };
        let mut command = Command::new(&path);
        command
            .arg("-v")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .env_remove("TOTORO_INVITE")
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| fails(&error.to_string()))?;
        let mut said = Vec::new();
        let output = child.stdout.take();
        let ended = tokio::time::timeout(PATIENCE, async {
            if let Some(output) = output {
                output.take(MAX_SAID).read_to_end(&mut said).await.ok();
            }
            child.wait().await
        });
        if ended.await.is_err() {
            return Err(fails("it does not tell its version (frpc -v hangs)"));
        }
        let said = String::from_utf8_lossy(&said);
        let version = read_version(&said).ok_or_else(|| fails(&format!("-v printed {said:?}")))?;
        if version < OLDEST {
            return Err(Error::FrpcOld {
                path,
                version: version.to_string(),
            });
        }
        Ok(Frpc { path, version })
    }
}

fn in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("frpc"))
        .find(|file| file.is_file())
}

/// `0.61.0`, with or without a `v`.
fn read_version(said: &str) -> Option<Version> {
    let word = said.split_whitespace().next()?;
    Version::parse(word.trim_start_matches('v')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A program in frpc's place that answers `-v` with this script.
    fn stand_in(script: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("frpc");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        (dir, path)
    }

    async fn found(script: &str) -> Result<Version, Error> {
        let (_dir, path) = stand_in(script);
        Frpc::find(Some(&path)).await.map(|frpc| frpc.version)
    }

    #[tokio::test]
    async fn its_version_decides() {
        assert_eq!(found("echo 0.61.0").await, Ok(OLDEST));
        assert_eq!(found("echo v0.70.1").await, Ok(Version::new(0, 70, 1)));
        let old = found("echo 0.60.0").await;
        assert!(matches!(old, Err(Error::FrpcOld { .. })), "{old:?}");
        for broken in ["exit 1", "echo hello", "yes 0.61"] {
            let told = found(broken).await;
            assert!(matches!(told, Err(Error::FrpcFails { .. })), "{told:?}");
        }
        let none = Frpc::find(Some(Path::new("/nonexistent/frpc"))).await;
        assert!(matches!(none, Err(Error::FrpcFails { .. })), "{none:?}");
    }
}
