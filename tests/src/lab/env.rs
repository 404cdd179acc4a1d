//! Files for people who play on in a kept lab: `lab-<tag>.env`, and `lab.env` for the newest.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use super::Tools;

/// Writes a lab's file and points `lab.env` to it; where `lab.env` is.
pub(super) fn write(tools: &Tools, tag: &str, text: &str) -> Result<PathBuf> {
    let dir = &tools.demo;
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let path = file(tools, tag);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    point(dir, tag)
}

/// Removes a lab's file; `lab.env` is the newest of the others then, if there is one.
pub(super) fn forget(tools: &Tools, tag: &str) {
    if fs::remove_file(file(tools, tag)).is_err() {
        return;
    }
    let entries = fs::read_dir(&tools.demo).into_iter().flatten().flatten();
    let newest = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let tag = name.strip_prefix("lab-")?.strip_suffix(".env")?.to_owned();
            let written = entry.metadata().and_then(|meta| meta.modified());
            Some((written.unwrap_or(SystemTime::UNIX_EPOCH), tag))
        })
        .max();
    match newest {
        Some((_, tag)) => drop(point(&tools.demo, &tag)),
        None => drop(fs::remove_file(tools.demo.join("lab.env"))),
    }
}

fn file(tools: &Tools, tag: &str) -> PathBuf {
    tools.demo.join(format!("lab-{tag}.env"))
}

/// By rename, so that a reader finds the old one or the new one.
fn point(dir: &Path, tag: &str) -> Result<PathBuf> {
    let link = dir.join("lab.env");
    let fresh = dir.join(format!("lab.env.{}", std::process::id()));
    fs::remove_file(&fresh).ok();
    symlink(format!("lab-{tag}.env"), &fresh)
        .and_then(|()| fs::rename(&fresh, &link))
        .with_context(|| format!("point {} to the lab", link.display()))?;
    Ok(link)
}
