//! xdp-filter, as `xdp-filter load` chooses its program, with so many rules.

use std::fs;
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::maps::{PerCpuArray, PerCpuHashMap, PerCpuValues};

use crate::packets::FREE;
use crate::programs::Program;
use crate::shield;

/// Ports of its rules, beside the one that is asked for.
const RULES: std::ops::Range<u16> = 30_000..65_000;
/// Flags of a rule (its `common_kern_user.h`).
const SOURCE: u64 = 1;
const DESTINATION: u64 = 2;
const TCP: u64 = 4;
const UDP: u64 = 8;

/// Its programs that let pass what no rule names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Features {
    /// What it loads by default, and for TCP and UDP ports together in any case: ports of both protocols,
    /// IPv4, IPv6 and Ethernet addresses. There is none between this one and those of one feature each.
    All,
    /// `-f tcp`: nothing but TCP ports.
    Tcp,
}

impl Features {
    const fn program(self) -> &'static str {
        match self {
            Features::All => "xdpfilt_alw_all",
            Features::Tcp => "xdpfilt_alw_tcp",
        }
    }
}

/// Its rules.
#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// The program.
    pub(crate) features: Features,
    /// On ports: one drops what goes to [`FREE`]; the others drop by source port, so that nothing else is
    /// dropped.
    pub(crate) ports: u16,
    /// On source addresses, IPv4: those that Totoro bans. At most 10,000, its table's size.
    pub(crate) addresses: u32,
}

/// Loads a program of it without libxdp's dispatcher in front.
pub(crate) fn load(dir: &Path, baseline: &Path, pins: &Path, rules: Rules) -> Program {
    let name = rules.features.program();
    // Its maps want to be pinned by name; each instance has its own, and keeps them by their descriptors.
    fs::create_dir(pins).expect("a directory on bpffs");
    let loaded = EbpfLoader::new()
        .default_map_pin_directory(pins)
        .load_file(dir.join(name).with_extension("o"));
    fs::remove_dir_all(pins).expect("unpin");
    let mut ebpf = loaded.unwrap_or_else(|error| panic!("xdp-filter: {error:?}"));
    let cpus = aya::util::nr_cpus().expect("processors");
    let each = |flags| PerCpuValues::try_from(vec![flags; cpus]).expect("one each");
    let protocols = match rules.features {
        // Its default for a rule.
        Features::All => TCP | UDP,
        Features::Tcp => TCP,
    };
    let map = ebpf.map_mut("filter_ports").expect("xdp-filter's map");
    let mut map: PerCpuArray<_, u64> = map.try_into().expect("its kind");
    let mut rule = |port: u16, side: u64| {
        // In network order, as it stands in the packet.
        let port = u16::from_ne_bytes(port.to_be_bytes());
        map.set(port.into(), each(side | protocols), 0)
            .expect("set");
    };
    rule(FREE, DESTINATION);
    for port in RULES.take(usize::from(rules.ports - 1)) {
        rule(port, SOURCE);
    }
    if rules.addresses > 0 {
        let map = ebpf.map_mut("filter_ipv4").expect("xdp-filter's map");
        let mut map: PerCpuHashMap<_, [u8; 4], u64> = map.try_into().expect("its kind");
        for address in shield::banned(rules.addresses) {
            map.insert(address, each(SOURCE), 0).expect("insert");
        }
    }
    Program::new(ebpf, name, baseline)
}

/// Where its objects are, if xdp-tools are installed.
pub(crate) fn dir() -> Option<PathBuf> {
    let mut dirs = ["/usr/lib/bpf", "/usr/lib64/bpf", "/usr/local/lib/bpf"]
        .map(PathBuf::from)
        .to_vec();
    for arch in fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
        dirs.push(arch.path().join("bpf"));
    }
    let all = [Features::All, Features::Tcp];
    dirs.into_iter().find(|dir| {
        all.iter()
            .all(|one| dir.join(one.program()).with_extension("o").is_file())
    })
}
