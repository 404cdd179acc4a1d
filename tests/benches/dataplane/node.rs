//! A node's kernel side as the daemon has it: loaded, attached and filled by the daemon's own code.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, loaded_programs};
use totoro_api::ports::{Pool, PortRange};
use totoro_ebpf::abi::{self, TCP, UDP};
use totoro_node::kernel::{Abi, Kernel, KernelOptions, XdpMode, uninstall};

/// The ports that are lent: of TCP as many as there are without the bench's own, of UDP the rest.
const TCP_POOL: (u16, u16) = (20_000, 59_999);
const UDP_POOL: (u16, u16) = (20_000, 45_535);
const BIND_PORT: u16 = 19_999;
/// As many as there may be.
pub(crate) const FULL: u32 = 65_536;
/// The first lease that is UDP's.
pub(crate) const FIRST_UDP: u32 = TCP_POOL.1 as u32 - TCP_POOL.0 as u32 + 1;

/// The nth lease's port; the first 40,000 are TCP's.
pub(crate) fn port(nth: u32) -> abi::PortKey {
    let (proto, port) = match nth.checked_sub(FIRST_UDP) {
        None => (TCP, u32::from(TCP_POOL.0) + nth),
        Some(nth) => (UDP, u32::from(UDP_POOL.0) + nth),
    };
    abi::PortKey {
        port: port as u16,
        proto,
        pad: 0,
    }
}

/// What a node loads with; no interface is filtered.
pub(crate) fn options(object: PathBuf, pins: &Path, cgroup: &Path) -> KernelOptions {
    let range = |(first, last)| PortRange::new(first, last).expect("a range");
    KernelOptions {
        object,
        abi: Abi::CURRENT,
        pin_root: pins.to_owned(),
        cgroup: cgroup.to_owned(),
        interfaces: Vec::new(),
        find_interfaces: None,
        xdp: XdpMode::Off,
        pool: Pool {
            tcp: [range(TCP_POOL)].into_iter().collect(),
            udp: [range(UDP_POOL)].into_iter().collect(),
        },
        bind_port: BIND_PORT,
        control_per_source: 0,
        max_conns_total: 0,
        flow_idle_s: 60,
    }
}

/// Loads it.
pub(crate) fn load(options: &KernelOptions) -> Kernel {
    Kernel::load(options).unwrap_or_else(|error| panic!("{}", error.whole()))
}

/// As many tenants as there may be: one row of theirs is the node's.
pub(crate) const TENANTS: u32 = FULL - 1;

/// Makes leases that are not there yet, in turns of so many tenants.
pub(crate) fn lend(kernel: &Kernel, leases: std::ops::Range<u32>, tenants: u32) {
    for nth in leases {
        let tenant = nth % tenants + 2;
        let policy = abi::Tenant {
            state: abi::ACTIVE,
            max_conns: abi::UNLIMITED,
            max_flows: abi::UNLIMITED,
            max_conns_per_source: abi::UNLIMITED,
            ..abi::Tenant::default()
        };
        kernel.put_tenant(tenant, &policy).expect("a tenant");
        let lease = abi::Lease {
            tenant,
            lease: u64::from(nth) + 1,
            ..abi::Lease::default()
        };
        kernel.put_lease(port(nth), &lease).expect("a lease");
    }
}

/// Takes it all away.
pub(crate) fn unload(kernel: Kernel, pins: &Path) {
    drop(kernel);
    uninstall(pins).expect("unload");
}

/// The program that a pinned link attaches.
pub(crate) fn attached(pins: &Path, link: &str) -> ProgramInfo {
    let pin = pins.join(format!("v{}/links/{link}", abi::VERSION));
    let link: FdLink = PinnedLink::from_pin(pin).expect("a pinned link").into();
    by_id(link.info().expect("info").program_id())
}

/// A program, as it is now.
pub(crate) fn by_id(id: u32) -> ProgramInfo {
    let mut programs = loaded_programs().filter_map(Result::ok);
    programs
        .find(|program| program.id() == id)
        .expect("the program")
}

/// All programs that are attached.
pub(crate) fn programs(pins: &Path) -> Vec<ProgramInfo> {
    let links = pins.join(format!("v{}/links", abi::VERSION));
    let links = std::fs::read_dir(links).expect("links").flatten();
    links
        .map(|link| attached(pins, &link.file_name().to_string_lossy()))
        .collect()
}

/// What the maps of programs take, bytes: the kernel's word, which counts entries from Linux 6.4 on.
pub(crate) fn map_memory(programs: &[ProgramInfo]) -> u64 {
    let mut maps: Vec<u32> = programs
        .iter()
        .flat_map(|program| program.map_ids().expect("maps").unwrap_or_default())
        .collect();
    maps.sort_unstable();
    maps.dedup();
    maps.into_iter()
        .map(|id| {
            let map = MapInfo::from_id(id)
                .expect("a map")
                .fd()
                .expect("its descriptor");
            totoro_node::kernel::map_memory(map.as_fd()).expect("memlock")
        })
        .sum()
}
