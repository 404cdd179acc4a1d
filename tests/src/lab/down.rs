//! Taking a lab down by its name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{MACHINES, Tools, cgroup, env, ns, ns_name, process, tag as tags};

/// Longer than a killed daemon ever took to let go of its namespace.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the lab's node pins.
pub(super) fn pin_root(tag: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(format!("totoro-{tag}"))
}

/// The lab's sockets. Not in its directory: a socket's path has at most 107 bytes, a checkout's may
/// have more.
pub(super) fn run_dir(tag: &str) -> PathBuf {
    Path::new("/run").join(format!("totoro-{tag}"))
}

/// Ends a lab's processes and removes its pins, namespaces, cgroups. Logs and configurations stay
/// for reading, the data goes. Doing it twice does no harm.
///
/// # Errors
/// What could not be removed.
pub fn down(tools: &Tools, tag: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // Again and again: a daemon that is just being killed may have pinned once more, and a cgroup
    // is busy until its last process is gone.
    loop {
        let left = pass(tag);
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            let left: Vec<_> = left.iter().map(|path| path.display().to_string()).collect();
            bail!(
                "lab {tag} is not down, there is still: {}; `cargo xtask demo down {tag}` tries again",
                left.join(", ")
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let dir = tools.labs.join(tag);
    for secret in ["control", "node", "other"] {
        fs::remove_dir_all(dir.join(secret)).ok();
    }
    env::forget(tools, tag);
    // Last: as long as it is there, `demo down` knows of the lab.
    fs::remove_file(dir.join("owner")).ok();
    Ok(())
}

/// Whether there is anything of a lab but its logs.
#[must_use]
pub fn exists(tools: &Tools, tag: &str) -> bool {
    let mut all = vec![
        pin_root(tag),
        run_dir(tag),
        tools.labs.join(tag).join("owner"),
    ];
    all.extend(cgroup::root(tag));
    all.extend(MACHINES.map(|machine| ns::path(&ns_name(tag, machine))));
    tags::is_good(tag) && all.iter().any(|path| path.exists())
}

/// Removes what can be removed now; what is left.
fn pass(tag: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    // Processes first: a live daemon would pin and attach again.
    if let Ok(root) = cgroup::root(tag) {
        cgroup::remove(&root);
        all.push(root);
    }
    // Links detach when their pins go.
    for dir in [pin_root(tag), run_dir(tag)] {
        fs::remove_dir_all(&dir).ok();
        all.push(dir);
    }
    for name in MACHINES.map(|machine| ns_name(tag, machine)) {
        let path = ns::path(&name);
        if path.exists() {
            process::quick(Command::new("ip").args(["netns", "del", &name])).ok();
        }
        all.push(path);
    }
    all.retain(|path| path.exists());
    all
}
