//! What the machine itself must offer before anything runs in its kernel.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::toolchain::on_path;

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether packages can be installed by apt.
pub(crate) fn is_debian() -> bool {
    on_path("apt-get").is_some() && Path::new("/etc/debian_version").exists()
}

/// Where cgroup v2 is mounted.
pub(crate) fn cgroup2() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let at = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(at))
    })
}

/// Requires what loading programs and raising a lab takes.
///
/// # Errors
/// Everything that is missing, one line each, with the way to get it.
pub(crate) fn require_kernel() -> Result<()> {
    let mut missing = Vec::new();
    if !is_root() {
        missing.push("root: network namespaces and BPF need it; run `sudo -E env PATH=\"$PATH\" cargo xtask …`");
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push("the kernel's BTF (/sys/kernel/btf/vmlinux): a kernel with CONFIG_DEBUG_INFO_BTF, as Debian's are");
    }
    if cgroup2().is_none() {
        missing.push("cgroup v2: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    }
    for (tool, package) in [("ip", "iproute2"), ("bpftool", "bpftool")] {
        if on_path(tool).is_none() {
            missing.push(match package {
                "iproute2" => "ip: apt-get install iproute2",
                _ => "bpftool: apt-get install bpftool",
            });
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks:\n  - {}", missing.join("\n  - "))
}
