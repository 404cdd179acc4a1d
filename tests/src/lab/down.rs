//! Taking a lab down by its name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Tools, cgroup, ns, ns_name, process};

/// Where the lab's node pins.
pub(super) fn pin_root(tag: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(format!("totoro-{tag}"))
}

/// Ends a lab's processes and removes its pins, namespaces, cgroups. Logs and configurations stay
/// for reading, the data goes. Doing it twice does no harm.
pub fn down(tools: &Tools, tag: &str) {
    // Processes first: a live daemon would pin and attach again.
    if let Ok(root) = cgroup::root(tag) {
        cgroup::remove(&root);
    }
    // Links detach when their pins go.
    fs::remove_dir_all(pin_root(tag)).ok();
    for machine in ["node", "client", "user"] {
        let name = ns_name(tag, machine);
        if ns::path(&name).exists() {
            process::quick(Command::new("ip").args(["netns", "del", &name])).ok();
        }
    }
    let dir = tools.labs.join(tag);
    fs::remove_file(dir.join("owner")).ok();
    for secret in ["control", "node", "other"] {
        fs::remove_dir_all(dir.join(secret)).ok();
    }
}

/// Labs whose owner is gone: kept ones, and what a SIGKILL left.
#[must_use]
pub fn abandoned(tools: &Tools) -> Vec<String> {
    let entries = fs::read_dir(&tools.labs).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let owner = fs::read_to_string(entry.path().join("owner")).unwrap_or_default();
            owner.parse::<u32>().is_ok_and(|pid| !runs_a_lab(pid))
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Whether this process is a living lab, and not a stranger with a reused number.
fn runs_a_lab(pid: u32) -> bool {
    let path = |name| format!("/proc/{pid}/{name}");
    let lives = fs::read_to_string(path("comm")).is_ok();
    let exe = |path: &str| {
        fs::read_link(path)
            .ok()
            .and_then(|exe| exe.parent().map(PathBuf::from))
    };
    let ours = exe("/proc/self/exe");
    lives
        && (exe(&path("exe")) == ours || exe(&path("exe")).is_some_and(|dir| dir.ends_with("deps")))
}
