//! `key rotate`: a new key of this machine's making. It is on disk before it is sent, and in the
//! old one's place once the control plane has it, so no crash and no lost answer locks the node out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use reqwest::StatusCode;
use totoro_api::wire::node::{KeyRotated, NewKey};
use totoro_cli::{out, print_json};

use crate::config::Config;
use crate::control::{CallError, Control};
use crate::secret;

/// What to do with the key.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes a new key. The old one works until the new one's first use, a day at most; a running
    /// daemon takes the new one with its next heartbeat.
    #[command(after_help = "\
Examples:
  totoro-node key rotate
  totoro-node --config ./lab/node.toml key rotate --json")]
    Rotate,
}

/// Does it.
pub(super) async fn run(config: &Config, command: Command, as_json: bool) -> Result<()> {
    match command {
        Command::Rotate => rotate(config, as_json).await,
    }
}

async fn rotate(config: &Config, as_json: bool) -> Result<()> {
    let at = &config.key_file;
    let next = next_to(at);
    // Left by a rotation whose answer was lost: the control plane may have it.
    if !next.exists() {
        secret::write(&next, &format!("tk1-{}", secret::random_text()))?;
    }
    let (old, new) = (secret::read(at)?, secret::read(&next)?);
    let body = NewKey {
        key_hash: blake3::hash(new.as_bytes()).to_hex().to_string(),
    };
    let sent = Control::new(&config.control, &old)?
        .post::<KeyRotated>("/nodes/self/key", &body)
        .await;
    let rotated = match sent {
        Ok(rotated) => rotated,
        Err(error) if is_unauthorized(&error) && works(&config.control, &new).await => {
            KeyRotated { old_until: None }
        }
        Err(error) => return Err(error),
    };
    adopt(&next, at)?;
    if as_json {
        return Ok(print_json(&rotated)?);
    }
    out::line(format_args!("the node has a new key, in {}", at.display()))?;
    match rotated.old_until {
        Some(until) => out::line(format_args!(
            "the old one works until the new one's first use, at most until {until}"
        ))?,
        None => out::line("the old one no longer works")?,
    }
    out::line("a running daemon takes it with its next heartbeat")?;
    Ok(())
}

/// Where a new key waits until the control plane has it.
pub(super) fn next_to(key: &Path) -> PathBuf {
    let name = key.file_name().unwrap_or_default().to_string_lossy();
    key.with_file_name(format!("{name}.new"))
}

/// Puts the new key in the old one's place, whole or not at all.
fn adopt(next: &Path, at: &Path) -> Result<()> {
    fs::rename(next, at).with_context(|| format!("put {} in place", next.display()))?;
    let dir = at.parent().context("a file has a directory")?;
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("sync {}", dir.display()))
}

fn is_unauthorized(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<CallError>(),
        Some(CallError::Refused {
            status: StatusCode::UNAUTHORIZED,
            ..
        })
    )
}

/// Whether the control plane knows a key: an earlier rotation's answer was lost, and its day over.
async fn works(control: &str, key: &str) -> bool {
    match Control::new(control, key) {
        Ok(control) => control
            .get::<serde::de::IgnoredAny>("/nodes/self")
            .await
            .is_ok(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_key_waits_beside_and_takes_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("node.key");
        let next = next_to(&at);
        assert_eq!(next, dir.path().join("node.key.new"));
        secret::write(&at, "old").unwrap();
        secret::write(&next, "new").unwrap();
        adopt(&next, &at).unwrap();
        assert_eq!(secret::read(&at).unwrap(), "new");
        assert!(!next.exists());
    }
}
