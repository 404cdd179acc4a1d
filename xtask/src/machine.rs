//! What the machine itself must offer before anything runs in its kernel.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{browser, frp, path, probe, schemathesis, toolchain};

/// Programs that set-up, builds and tests call, and Debian's packages of them.
pub(crate) const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("bpftool", "bpftool"),
    ("nft", "nftables"),
    ("cc", "build-essential"),
    ("git", "git"),
    ("mkfs.ext4", "e2fsprogs"),
];

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether packages can be installed by apt.
pub(crate) fn is_debian() -> bool {
    path::find("apt-get").is_some() && Path::new("/etc/debian_version").exists()
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

/// Requires everything that set-up can't get by itself, before its first step.
///
/// # Errors
/// All that is missing, with the ways to get it.
pub(crate) fn require_for_setup() -> Result<()> {
    let mut missing = kernel();
    missing.extend(frp::missing());
    // The rest is apt's where apt can work.
    if !(is_debian() && is_root()) {
        missing.extend(tools());
        if schemathesis::find().is_none() && !schemathesis::can_install() {
            missing.push(format!(
                "Python 3 with venv and pip: apt-get install {}, or your system's like",
                schemathesis::PACKAGE
            ));
        }
        let packages = browser::missing().join(" ");
        if !packages.is_empty() {
            missing.push(format!(
                "a browser for tests of pages: apt-get install {packages}, or your system's like"
            ));
        }
        missing.extend(toolchain::find().err().map(|error| format!("{error:#}")));
    }
    report(missing)
}

/// Requires what loading programs and raising a lab takes.
///
/// # Errors
/// All that is missing, with the ways to get it.
pub(crate) fn require_kernel() -> Result<()> {
    let mut missing = kernel();
    missing.extend(tools());
    report(missing)
}

fn report(missing: Vec<String>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks:\n  - {}", missing.join("\n  - "))
}

fn tools() -> Vec<String> {
    let missing = TOOLS
        .into_iter()
        .filter(|(tool, _)| path::find(tool).is_none());
    missing
        .map(|(tool, package)| format!("{tool}: apt-get install {package}, or your system's like"))
        .collect()
}

fn kernel() -> Vec<String> {
    let mut missing = Vec::new();
    if !is_root() {
        missing.push(
            "root: network namespaces and BPF need it; run \
             `sudo -E env \"PATH=$PATH:/usr/sbin:/sbin\" cargo xtask …`"
                .to_owned(),
        );
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push(
            "the kernel's BTF (/sys/kernel/btf/vmlinux): boot a kernel with CONFIG_DEBUG_INFO_BTF, \
             as Debian's are"
                .to_owned(),
        );
    }
    if cgroup2().is_none() {
        missing.push("cgroup v2: mount -t cgroup2 cgroup2 /sys/fs/cgroup".to_owned());
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.trim() == "nodev\tbpf") {
        missing.push("bpffs: a kernel with CONFIG_BPF_SYSCALL, as Debian's are".to_owned());
    }
    // Without root they fail for that reason only.
    if is_root() {
        if let Err(error) = probe::bpf() {
            missing.push(format!(
                "BPF: making a map failed ({error}); in a container run it with --privileged, \
                 elsewhere look for a lockdown or a security module that forbids bpf(2)"
            ));
        }
        if let Err(error) = probe::netns() {
            missing.push(format!(
                "network namespaces: making one failed ({error}); in a container run it with \
                 --privileged, elsewhere raise /proc/sys/user/max_net_namespaces"
            ));
        }
    }
    missing
}
