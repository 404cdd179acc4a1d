//! What the kernel must be able to do: asked before anything is loaded, so that what an older one lacks
//! is said here and not by its verifier.

use std::collections::BTreeSet;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::{ProgramType, loaded_programs};
use aya::sys::{is_map_supported, is_program_supported};
use aya::util::KernelVersion;
use caps::{CapSet, Capability};
use procfs::{ConfigSetting, Current, KernelConfig};

use super::{Line, Status};
use crate::config::Config;
use crate::{kernel, machine, privilege};

/// The oldest kernel that the programs are tried on: Debian 12's.
const OLDEST: KernelVersion = KernelVersion::new(6, 1, 0);
/// What the programs are.
const PROGRAMS: [(ProgramType, &str); 8] = [
    (ProgramType::Xdp, "XDP"),
    (ProgramType::SchedClassifier, "TC"),
    (ProgramType::SkLookup, "sk_lookup"),
    (ProgramType::SockOps, "sock_ops"),
    (ProgramType::CgroupSkb, "cgroup_skb"),
    (ProgramType::CgroupSock, "cgroup_sock"),
    (ProgramType::CgroupSockAddr, "cgroup_sock_addr"),
    (ProgramType::SkSkb, "sk_skb"),
];
/// What their maps are.
const MAPS: [(MapType, &str); 7] = [
    (MapType::Hash, "hash"),
    (MapType::LruHash, "lru_hash"),
    (MapType::PerCpuHash, "percpu_hash"),
    (MapType::LpmTrie, "lpm_trie"),
    (MapType::SkStorage, "sk_storage"),
    (MapType::SockHash, "sockhash"),
    (MapType::RingBuf, "ringbuf"),
];
/// Options without which a part is missing, and which part.
const OPTIONS: [(&str, &str); 8] = [
    ("CONFIG_BPF_SYSCALL", "everything"),
    ("CONFIG_BPF_JIT", "speed"),
    ("CONFIG_CGROUP_BPF", "counting and cutting"),
    ("CONFIG_NET_CLS_BPF", "TC filters"),
    ("CONFIG_NET_SCH_INGRESS", "TC filters"),
    ("CONFIG_INET_DIAG", "comparing counts with sockets"),
    ("CONFIG_INET_DIAG_DESTROY", "revocation"),
    ("CONFIG_DEBUG_INFO_BTF", "loading"),
];

pub(super) fn lines(config: &Config) -> Vec<Line> {
    let mut lines = vec![version(), capabilities(), features(), options()];
    lines.push(lookups(config));
    lines
}

/// Its version, and what that leaves out.
fn version() -> Line {
    let release = machine::kernel_release();
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    let version = KernelVersion::current().unwrap_or(OLDEST);
    let (status, detail) = if !btf {
        let advice = "has no BTF (/sys/kernel/btf/vmlinux); use a kernel with \
                      CONFIG_DEBUG_INFO_BTF, as Debian's";
        (Status::Fail, advice)
    } else if version < OLDEST {
        let advice = "older than 6.1, the oldest that the programs are tried on; what follows says \
                      what it lacks";
        (Status::Warn, advice)
    } else if version < KernelVersion::new(6, 6, 0) {
        let detail = "has BTF; has no TCX (6.6), so TC filters are clsact's: at an upgrade they are \
                      replaced with a short gap, in which the socket lookup guards alone";
        (Status::Ok, detail)
    } else {
        (Status::Ok, "has BTF and TCX")
    };
    Line::new("kernel", release, status, detail)
}

/// What the daemon starts with and keeps.
fn capabilities() -> Line {
    let has = caps::read(None, CapSet::Effective).unwrap_or_default();
    let missing: Vec<String> = privilege::KEPT
        .iter()
        .filter(|needed| !has.contains(needed))
        .map(ToString::to_string)
        .collect();
    let target = privilege::KEPT.map(|one| one.to_string()).join(" ");
    if missing.is_empty() {
        // Only for what looks at other owners' programs.
        let detail = match has.contains(&Capability::CAP_SYS_ADMIN) {
            true => "there; the daemon gives up all others",
            false => "there; without CAP_SYS_ADMIN `check` can't see other owners' programs",
        };
        return Line::new("capabilities", target, Status::Ok, detail);
    }
    let detail = format!(
        "{} missing: run as root, in a container with --privileged",
        missing.join(" ")
    );
    Line::new("capabilities", target, Status::Fail, detail)
}

/// Each kind of program and map, tried.
fn features() -> Line {
    let (mut missing, mut why) = (Vec::new(), BTreeSet::new());
    let programs = PROGRAMS.map(|(kind, name)| {
        let tried = is_program_supported(kind).map_err(anyhow::Error::from);
        (format!("{name} programs"), tried)
    });
    let maps = MAPS.map(|(kind, name)| {
        let tried = is_map_supported(kind).map_err(anyhow::Error::from);
        (format!("{name} maps"), tried)
    });
    for (name, tried) in programs.into_iter().chain(maps) {
        match tried {
            Ok(true) => continue,
            Ok(false) => {}
            // The same for most of them: said once.
            Err(error) => _ = why.insert(format!("{error:#}")),
        }
        missing.push(name);
    }
    let target = format!("{} programs, {} maps", PROGRAMS.len(), MAPS.len());
    if missing.is_empty() {
        return Line::new("bpf", target, Status::Ok, "every kind of them can be made");
    }
    let why: String = why.into_iter().map(|one| format!(" ({one})")).collect();
    let detail = format!(
        "can't be made: {}{why}; use Linux 6.1 or newer, and look for a lockdown or a security module \
         that forbids bpf(2)",
        missing.join(", ")
    );
    Line::new("bpf", target, Status::Fail, detail)
}

/// The options that it was built with, where it tells. What was tried above counts more.
fn options() -> Line {
    let Ok(KernelConfig(built)) = KernelConfig::current() else {
        let detail = "does not tell its options (/boot/config-…); what was tried above counts";
        return Line::new("options", machine::kernel_release(), Status::Ok, detail);
    };
    let is_on = |name: &str| {
        matches!(
            built.get(name),
            Some(ConfigSetting::Yes | ConfigSetting::Module)
        )
    };
    let off: Vec<String> = OPTIONS
        .iter()
        .filter(|(name, _)| !is_on(name))
        .map(|(name, part)| format!("{name} ({part})"))
        .collect();
    let target = format!("{} options", OPTIONS.len());
    match off.is_empty() {
        true => Line::new("options", target, Status::Ok, "all are on"),
        false => {
            let detail = format!(
                "off: {}; use a kernel with them, as Debian's",
                off.join(", ")
            );
            Line::new("options", target, Status::Warn, detail)
        }
    }
}

/// Other socket lookups of this network namespace: any of them may take a connection before ours sees it.
pub(super) fn lookups(config: &Config) -> Line {
    let others = match kernel::other_lookups(&config.pin_root) {
        Ok(others) => others,
        Err(error) => {
            let detail = format!("can't be listed: {}", error.whole());
            return Line::new("sk_lookup", "others", Status::Warn, detail);
        }
    };
    if others.is_empty() {
        return Line::new(
            "sk_lookup",
            "others",
            Status::Ok,
            "none in this network namespace",
        );
    }
    let name = |id: u32| {
        let mut all = loaded_programs().filter_map(Result::ok);
        let found = all.find(|program| program.id() == id);
        found.and_then(|program| program.name_as_str().map(str::to_owned))
    };
    let named: Vec<String> = others
        .iter()
        .map(|(link, program)| {
            let name = name(*program).unwrap_or_default();
            format!("{name} (program {program}, link {link})")
        })
        .collect();
    let detail = format!(
        "{}: it can send a pool port's connections elsewhere, past the limits; see that it leaves the \
         pool alone (bpftool link show)",
        named.join(", ")
    );
    Line::new("sk_lookup", "others", Status::Warn, detail)
}
