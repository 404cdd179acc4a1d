//! What this machine has: mounts, interfaces, boot id, kernel.

use std::fs;
use std::path::PathBuf;

/// Where the cgroup v2 hierarchy is mounted.
#[must_use]
pub fn cgroup2_root() -> Option<PathBuf> {
    mount_of("cgroup2")
}

/// Where a file system of this type is mounted first.
#[must_use]
pub fn mount_of(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&kind))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
}

/// Whether this process is in a cgroup (v2), or below it.
#[must_use]
pub fn in_cgroup(cgroup: &std::path::Path) -> bool {
    let own = read_line("/proc/self/cgroup");
    let Some(own) = own.strip_prefix("0::/") else {
        return false;
    };
    let (Some(root), Ok(cgroup)) = (cgroup2_root(), cgroup.canonicalize()) else {
        return false;
    };
    root.join(own).starts_with(cgroup)
}

/// Interfaces with a default route, IPv4 or IPv6.
#[must_use]
pub fn default_interfaces() -> Vec<String> {
    let mut names = Vec::new();
    // Iface Destination Gateway Flags RefCnt Use Metric Mask …
    for line in fs::read_to_string("/proc/net/route")
        .unwrap_or_default()
        .lines()
        .skip(1)
    {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [name, "00000000", ..] = fields[..]
            && fields.get(7) == Some(&"00000000")
        {
            names.push(name.to_owned());
        }
    }
    // destination prefix-length source prefix-length next-hop metric refs use flags device
    for line in fs::read_to_string("/proc/net/ipv6_route")
        .unwrap_or_default()
        .lines()
    {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields
            .first()
            .is_some_and(|to| to.bytes().all(|byte| byte == b'0'))
            && fields.get(1) == Some(&"00");
        if let Some(name) = fields.get(9).filter(|name| default && **name != "lo") {
            names.push((*name).to_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The boot id: changes at each boot.
#[must_use]
pub fn boot_id() -> String {
    read_line("/proc/sys/kernel/random/boot_id")
}

/// The kernel's release, e.g. `6.1.0-50-cloud-amd64`.
#[must_use]
pub fn kernel_release() -> String {
    read_line("/proc/sys/kernel/osrelease")
}

/// The first line of a small file; empty when there is none.
#[must_use]
pub fn read_line(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}
