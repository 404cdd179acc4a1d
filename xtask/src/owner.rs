//! Under sudo: what we made for root goes back to the person, whose later builds would fail on it.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Path, PathBuf};

use crate::{cache, machine, root, target};

/// Gives what root owns under the build's directories to whoever called sudo, where the checkout is
/// theirs.
pub(crate) fn hand_back() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(uid), Some(gid)) = (number("SUDO_UID"), number("SUDO_GID")) else {
        return;
    };
    let theirs = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.uid() == uid);
    if !machine::is_root() || uid == 0 || !theirs(&root()) {
        return;
    }
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut trees = vec![target(), cache()];
    for sub in ["registry", "git"] {
        trees.extend(cargo.as_ref().map(|home| home.join(sub)));
    }
    // `sudo -E` keeps the person's HOME; without it the caches are root's own.
    for tree in trees {
        if tree.parent().is_some_and(theirs) {
            give(&tree, uid, gid);
        }
    }
}

/// Never follows a link.
fn give(path: &Path, uid: u32, gid: u32) {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    if meta.uid() == 0 {
        lchown(path, Some(uid), Some(gid)).ok();
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            give(&entry.path(), uid, gid);
        }
    }
}
