//! The lab's cgroups (v2), wherever the hierarchy is mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `<cgroup2>/totoro-<tag>`; it need not exist.
pub(super) fn root(tag: &str) -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let at = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(at))
    });
    Ok(mount
        .context("cgroup v2 is not mounted")?
        .join(format!("totoro-{tag}")))
}

/// Ends every process of the lab and removes its cgroups. Whoever is in them was put there by us.
pub(super) fn remove(root: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while root.exists() && Instant::now() < deadline {
        let children = fs::read_dir(root).into_iter().flatten().flatten();
        let dirs = children
            .map(|entry| entry.path())
            .filter(|path| path.is_dir());
        for dir in dirs.chain([root.to_owned()]) {
            for pid in fs::read_to_string(dir.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
            {
                if let Ok(pid) = pid.parse() {
                    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
                }
            }
            fs::remove_dir(&dir).ok();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
