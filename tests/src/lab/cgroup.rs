//! The lab's cgroups (v2), wherever the hierarchy is mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{affinity, machine, signals};

/// `<cgroup2>/totoro-<tag>`; it need not exist. At the root, because whole processes go there, and
/// a kept lab outlives the login's scope that it was raised from.
pub(super) fn root(tag: &str) -> Result<PathBuf> {
    Ok(machine::cgroup2()?.join(format!("totoro-{tag}")))
}

/// Makes one.
pub(super) fn make(path: &Path) -> Result<()> {
    signals::making(|| {
        fs::create_dir(path).with_context(|| format!("create cgroup {}", path.display()))
    })
}

/// Stops what is in one and below it, or has it go on, and waits until that is so.
pub(super) fn freeze(path: &Path, yes: bool) -> Result<()> {
    let (to, wanted) = if yes {
        ("1", "frozen 1")
    } else {
        ("0", "frozen 0")
    };
    let at = path.join("cgroup.freeze");
    fs::write(&at, to).with_context(|| format!("write {}", at.display()))?;
    let begun = Instant::now();
    loop {
        let events = fs::read_to_string(path.join("cgroup.events"))?;
        if events.lines().any(|line| line == wanted) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(5),
            "{} is not {wanted}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Has all threads of a frozen one run on this processor alone from now on, with those that they start.
pub(super) fn keep_to(path: &Path, cpu: usize) -> Result<()> {
    let threads = fs::read_to_string(path.join("cgroup.threads")).context("read cgroup.threads")?;
    for thread in threads.lines() {
        let thread = Pid::from_raw(thread.parse().context("a thread's number")?);
        affinity::keep(thread, cpu)?;
    }
    Ok(())
}

/// Processor time of all that was ever in one.
pub(super) fn processor(path: &Path) -> Result<Duration> {
    let text = fs::read_to_string(path.join("cpu.stat")).context("read cpu.stat")?;
    let spent = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "));
    let spent = spent.context("no usage_usec in cpu.stat")?.parse()?;
    Ok(Duration::from_micros(spent))
}

/// Ends every process of the lab and removes its cgroups, as far as that goes at once. Whoever is
/// in them was put there by us.
pub(super) fn remove(root: &Path) {
    let children = fs::read_dir(root).into_iter().flatten().flatten();
    let dirs = children
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    for dir in dirs.chain([root.to_owned()]) {
        let pids = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
        fs::remove_dir(&dir).ok();
    }
}
