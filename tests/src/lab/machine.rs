//! What the machine must offer before a lab or a kernel test can run, and where its cgroups are.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What keeps this machine from running programs in its kernel, one line each; empty = nothing.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root (network namespaces and BPF need it)".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push("a kernel with BTF (/sys/kernel/btf/vmlinux)".to_owned());
    }
    for (kind, how) in [
        ("cgroup2", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
        ("bpf", "mount -t bpf bpf /sys/fs/bpf"),
    ] {
        if mounted(kind).is_none() {
            missing.push(format!("{kind} mounted ({how})"));
        }
    }
    for (tool, package) in [("ip", "iproute2"), ("bpftool", "bpftool")] {
        if !in_path(tool) {
            missing.push(format!(
                "{tool} in PATH (apt-get install {package}; it is in /usr/sbin or /usr/bin)"
            ));
        }
    }
    missing
}

/// For tests: says that `test` is skipped because of `missing`; `true` when nothing is missing.
///
/// # Panics
/// When something is missing although `TOTORO_REQUIRE_KERNEL=1` (as `cargo xtask test` sets).
#[must_use]
pub fn able(test: &str, missing: &[String]) -> bool {
    if missing.is_empty() {
        return true;
    }
    let why = missing.join("; ");
    let required = std::env::var("TOTORO_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
    assert!(!required, "{test} can't run, this machine lacks: {why}");
    // Not eprintln!: the test runner would keep that for itself, and a skip must be seen.
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "{test}: skipped, this machine lacks: {why}").ok();
    false
}

/// Our own cgroup. What moves threads must stay below it: they may only go where the resource
/// domain is the same, and in a login's scope that is not the root's.
///
/// # Errors
/// cgroup v2 is not mounted, or we are outside of what is.
pub fn own_cgroup() -> Result<PathBuf> {
    let mount = cgroup2()?;
    let all = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let own = all
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .context("/proc/self/cgroup has no line of cgroup v2 (0::…)")?;
    let path = mount.join(own);
    anyhow::ensure!(
        path.join("cgroup.procs").exists(),
        "our own cgroup {} is not there: cgroup v2 is mounted from elsewhere",
        path.display()
    );
    Ok(path)
}

/// Where cgroup v2 is mounted.
pub(super) fn cgroup2() -> Result<PathBuf> {
    mounted("cgroup2").context("cgroup v2 is not mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
}

/// The first place where a file system of this kind is mounted.
fn mounted(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let at = fields.nth(1)?;
        (fields.next()? == kind).then(|| PathBuf::from(at))
    })
}

fn in_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}
