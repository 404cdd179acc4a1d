//! What a test run may have left in the kernel, found by its name tag.

use std::path::Path;
use std::process::Command;

use crate::{machine, step};

/// Every namespace, interface, cgroup and pin directory whose name has `tag`.
pub(crate) fn find(tag: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut list = |kind: &str, text: String| {
        let hits = text.lines().filter(|line| line.contains(tag));
        found.extend(hits.map(|line| format!("{kind} {}", line.trim())));
    };
    list(
        "netns",
        step::output(Command::new("ip").args(["netns", "list"])).unwrap_or_default(),
    );
    list(
        "link",
        step::output(Command::new("ip").args(["-brief", "link"])).unwrap_or_default(),
    );
    list("pins", names(Path::new("/sys/fs/bpf")));
    if let Some(cgroup) = machine::cgroup2() {
        list("cgroup", names(&cgroup));
    }
    found
}

fn names(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| format!("{}\n", dir.join(entry.file_name()).display()))
        .collect()
}
