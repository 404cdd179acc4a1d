//! Our own PATH: sudo and small shells leave out where the system's tools are.

use std::path::{Path, PathBuf};

/// Where Debian has `ldconfig` (dpkg wants it), `bpftool` and more.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Appends the system's directories to PATH, for us and everything that we start. To be called
/// first of all.
pub(crate) fn complete() {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for dir in SYSTEM.map(PathBuf::from) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    // It came apart at the separators, so it can be joined again.
    let Ok(path) = std::env::join_paths(dirs) else {
        return;
    };
    // SAFETY: main calls this first; there is no other thread that could read the environment.
    unsafe { std::env::set_var("PATH", path) };
}

/// The first file of this name in PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| Path::is_file(file))
}
