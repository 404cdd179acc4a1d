//! What the shield has at hand follows the maps that it is derived from, and outlives no daemon.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::Path;

use aya::maps::{Array, HashMap, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{TestRun, TestRunOptions, Xdp, loaded_programs};
use aya_obj::programs::XdpAttachType;
use totoro_ebpf::abi::{self, ACTIVE, TCP, Tenant, UDP};
use totoro_ebpf::logic::near;
use totoro_ebpf::packet::{SYN, Words, words};
use totoro_node::kernel::{Kernel, KernelOptions, XdpMode, to_addr};

use crate::support::{self, Node, chain, ip, key, lease};

const LEASED: u16 = 20_000;
const FREE: u16 = 20_001;
const NODE4: &str = "10.77.14.1";

/// The program that is attached to the only interface.
fn attached(pin_root: &Path) -> Xdp {
    let links = pin_root.join(format!("v{}/links", abi::VERSION));
    let pin = std::fs::read_dir(links)
        .expect("links")
        .map(|entry| entry.expect("entry").path())
        .find(|path| path.to_string_lossy().contains("xdp"))
        .expect("XDP is attached");
    let link: FdLink = PinnedLink::from_pin(pin).expect("pinned link").into();
    let id = link.info().expect("info").program_id();
    let info = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .expect("the program");
    Xdp::from_program_info(info, "totoro_xdp".into(), XdpAttachType::Interface).expect("XDP")
}

/// A SYN of a user's, IPv4.
fn syn(to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend([
        8, 0, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, TCP, 0, 0, 198, 51, 100, 7,
    ]);
    bytes.extend(to.octets());
    bytes.extend(40_000_u16.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

/// A datagram of the same user's.
fn datagram(to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut bytes = syn(to, port);
    bytes[14 + 9] = UDP;
    bytes[14 + 3] = 28;
    bytes.truncate(14 + 20 + 4);
    bytes.extend([0, 8, 0, 0]);
    bytes
}

/// Whether a SYN to a port of an address passes what is attached.
pub(crate) fn passes(pin_root: &Path, to: &str, port: u16) -> bool {
    lets(pin_root, &syn(to.parse().expect("an address"), port))
}

/// Whether a frame passes what is attached.
fn lets(pin_root: &Path, bytes: &[u8]) -> bool {
    let options = TestRunOptions {
        data_in: Some(bytes),
        ..TestRunOptions::new()
    };
    let run = attached(pin_root).test_run(options).expect("run");
    run.return_value == 2
}

/// The node's addresses that the shield has at hand.
fn at_hand(pin_root: &Path) -> Array<MapData, Words> {
    let map = support::pinned(pin_root, "near/NEAR");
    map.try_into().expect("an array")
}

/// Budgets that were spent in `PORT_USAGE`: none where the shield had the lease at hand.
fn spent_by_hash(pin_root: &Path) -> HashSet<u16> {
    let map: HashMap<MapData, abi::PortKey, abi::PortUsage> =
        support::pinned(pin_root, "PORT_USAGE")
            .try_into()
            .expect("a hash");
    map.iter()
        .map(|entry| entry.expect("entry"))
        .filter(|(_, usage)| usage.syn_tat_ns != 0)
        .map(|(key, _)| key.port)
        .collect()
}

fn restarted(kernel: Kernel, options: &KernelOptions) -> Kernel {
    drop(kernel);
    Kernel::load(options).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

/// A wire to nowhere, whose end on the node has its address.
fn wire(name: &str) {
    let ends = [format!("{name}0"), format!("{name}1")];
    ip(&[
        "link", "add", &ends[0], "type", "veth", "peer", "name", &ends[1],
    ]);
    ip(&["addr", "add", &format!("{NODE4}/24"), "dev", &ends[0]]);
    for end in &ends {
        ip(&["link", "set", end, "up"]);
    }
}

/// Lends a port to a tenant.
fn lend(kernel: &Kernel, proto: u8) {
    let tenant = Tenant {
        state: ACTIVE,
        ..Tenant::default()
    };
    kernel.put_tenant(1, &tenant).expect("tenant");
    kernel
        .put_lease(key(proto, LEASED), &lease(1, 1))
        .expect("lease");
}

/// Bans these, and nobody else.
fn ban(kernel: &Kernel, prefixes: &[&str]) {
    let wanted = prefixes
        .iter()
        .map(|prefix| (prefix.parse().expect("a prefix"), 0));
    kernel.set_bans(&wanted.collect()).expect("bans");
}

#[test]
fn the_shield_follows_leases_and_addresses() {
    let Some(node) = Node::new("near") else {
        return;
    };
    let node = node.on(&["near0"], XdpMode::Native);
    let options = node.options();
    let root = options.pin_root.clone();
    node.run_after(
        || wire("near"),
        |kernel, ()| {
            lend(&kernel, TCP);
            assert!(passes(&root, NODE4, LEASED));
            assert!(!passes(&root, NODE4, FREE));

            // Another daemon's programs have arrays of their own: filled before they see a packet.
            let kernel = restarted(kernel, &options);
            assert!(passes(&root, NODE4, LEASED));
            assert_eq!(
                spent_by_hash(&root),
                HashSet::new(),
                "the lease was at hand"
            );

            // A rate that fits into no gate is the hash's.
            let slow = abi::Lease {
                syn_interval_ns: 3_600_000_000_000,
                syn_burst_ns: 3_600_000_000_000,
                ..lease(1, 2)
            };
            kernel.put_lease(key(TCP, FREE), &slow).expect("lease");
            assert!(passes(&root, NODE4, FREE));
            assert!(!passes(&root, NODE4, FREE), "one an hour");
            assert_eq!(spent_by_hash(&root), HashSet::from([FREE]));

            // Of a single address, of a group that has a bit, and of more than that; the user is 198.51.100.7.
            for prefix in ["198.51.100.7/32", "198.51.100.0/29", "198.51.0.0/16"] {
                ban(&kernel, &["192.0.2.1/32", prefix]);
                assert!(!passes(&root, NODE4, LEASED), "{prefix} is banned");
                ban(&kernel, &["192.0.2.1/32", "203.0.113.0/24"]);
                assert!(passes(&root, NODE4, LEASED), "{prefix} is banned no more");
            }
            ban(&kernel, &["198.51.100.7/32"]);
            let kernel = restarted(kernel, &options);
            assert!(!passes(&root, NODE4, LEASED), "the ban outlives the daemon");
            ban(&kernel, &[]);

            for port in [LEASED, FREE] {
                kernel.remove_lease(key(TCP, port)).expect("remove");
                assert!(!passes(&root, NODE4, port), "{port} is lent no more");
            }

            // An address that the node has no more is somebody else's, and what goes there passes.
            ip(&["addr", "del", &format!("{NODE4}/24"), "dev", "near0"]);
            kernel.sweep().expect("sweep");
            assert!(passes(&root, NODE4, LEASED));
            // Nor is what has no address at all.
            assert!(passes(&root, "0.0.0.0", LEASED));
            // Of several each is the node's own, and at hand.
            let several = ["10.77.14.2", "10.77.14.3", "172.17.0.1"];
            for addr in several {
                ip(&["addr", "add", &format!("{addr}/24"), "dev", "near0"]);
            }
            kernel.sweep().expect("sweep");
            for addr in several {
                assert!(!passes(&root, addr, LEASED), "{addr}");
                let addr = words(&to_addr(addr.parse().expect("an address")));
                assert_eq!(
                    at_hand(&root).get(&near::place(addr), 0).expect("place"),
                    addr
                );
            }
        },
    );
}

#[test]
fn a_flow_that_ends_loses_its_mark() {
    let Some(node) = Node::new("marked") else {
        return;
    };
    let node = node.on(&["marked0"], XdpMode::Native);
    let root = node.options().pin_root.clone();
    node.run_after(
        || wire("marked"),
        |kernel, ()| {
            lend(&kernel, UDP);
            let bytes = datagram(NODE4.parse().expect("an address"), LEASED);
            let user = abi::FlowKey {
                remote: abi::v4_mapped([198, 51, 100, 7]),
                remote_port: 40_000,
                port: LEASED,
                pad: 0,
            };
            let confirmed = abi::Flow {
                tenant: 1,
                lease: 1,
                state: abi::FLOW_CONFIRMED,
                ..abi::Flow::default()
            };
            let mut flows: HashMap<MapData, abi::FlowKey, abi::Flow> =
                support::pinned(&root, "FLOWS").try_into().expect("a hash");

            flows.insert(user, confirmed, 0).expect("insert");
            assert!(lets(&root, &bytes), "it is known");
            // Taken away behind the kernel's back: the mark is all that says so now.
            flows.remove(&user).expect("remove");
            ban(&kernel, &["198.51.100.7/32"]);
            assert!(lets(&root, &bytes), "the mark stands");

            flows.insert(user, confirmed, 0).expect("insert");
            ban(&kernel, &["198.51.100.0/24"]);
            assert!(flows.get(&user, 0).is_err(), "the ban ended it");
            assert!(!lets(&root, &bytes), "and took its mark");

            ban(&kernel, &[]);
            flows.insert(user, confirmed, 0).expect("insert");
            assert!(lets(&root, &bytes), "it is known again");
            kernel.remove_lease(key(UDP, LEASED)).expect("remove");
            assert!(!lets(&root, &bytes), "the lease's end took its mark");
        },
    );
}
