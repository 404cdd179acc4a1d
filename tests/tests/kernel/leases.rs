//! A lease opens and closes in one call of the kernel: what is counted on it meanwhile, and what another
//! finds there.

use std::path::Path;

use aya::maps::{HashMap, MapData, PerCpuHashMap, PerCpuValues};
use totoro_ebpf::abi::{self, TCP, UDP};
use totoro_node::kernel::{Kernel, LeaseCounts};

use crate::figures;
use crate::sockets::{PORT, connect, five, listen, v4};
use crate::support::{self, Node, eventually, pinned};

/// What is counted of a lease on the first CPU; on each other twice what it is on the one before.
const FIRST: abi::Traffic = abi::Traffic {
    bytes_in: 1,
    bytes_out: 10,
    packets_in: 100,
    packets_out: 1_000,
};

/// Counts something on the lease of a port, as the programs do, on all CPUs; what that is together.
fn count(root: &Path, key: abi::PortKey) -> LeaseCounts {
    let mut traffic: PerCpuHashMap<MapData, abi::TrafficKey, abi::Traffic> =
        pinned(root, "TRAFFIC").try_into().expect("hash");
    let cpus = aya::util::nr_cpus().expect("CPUs");
    let times = |by: u64| abi::Traffic {
        bytes_in: FIRST.bytes_in * by,
        bytes_out: FIRST.bytes_out * by,
        packets_in: FIRST.packets_in * by,
        packets_out: FIRST.packets_out * by,
    };
    let each: Vec<_> = (0..cpus).map(|cpu| times(1 << (cpu % 32))).collect();
    let of = abi::TrafficKey::of(1, key);
    let values = PerCpuValues::try_from(each).expect("values");
    traffic.insert(of, values, 0).expect("traffic");
    let mut usage: HashMap<MapData, abi::PortKey, abi::PortUsage> =
        pinned(root, "PORT_USAGE").try_into().expect("hash");
    let admitted = abi::PortUsage {
        admitted: 7,
        ..abi::PortUsage::default()
    };
    usage.insert(key, admitted, 0).expect("usage");
    let all = times((0..cpus).map(|cpu| 1_u64 << (cpu % 32)).sum());
    LeaseCounts {
        bytes_in: all.bytes_in,
        bytes_out: all.bytes_out,
        packets_in: all.packets_in,
        packets_out: all.packets_out,
        admitted: 7,
        live: 0,
    }
}

fn counts(kernel: &Kernel, key: abi::PortKey) -> LeaseCounts {
    kernel.lease_counts(1, key).expect("counts")
}

#[test]
fn who_closes_a_lease_is_told_what_was_counted_on_it() {
    let Some(node) = Node::new("told-closed") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(|kernel| {
        kernel.put_tenant(1, &five()).expect("tenant");
        for proto in [TCP, UDP] {
            let key = support::key(proto, PORT);
            kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
            let counted = count(&root, key);
            let told = kernel.remove_lease(key).expect("closed");
            assert_eq!(told, Some(counted), "of all CPUs");
            assert_eq!(kernel.leases().expect("leases"), []);
            assert_eq!(counts(&kernel, key), counted, "until it is forgotten");
            let again = kernel.remove_lease(key).expect("closed again");
            assert_eq!(again, None, "there was none any more");
            kernel.forget_lease(1, key).expect("forgotten");
            assert_eq!(counts(&kernel, key), LeaseCounts::default());
        }
    });
}

#[test]
fn leases_that_are_closed_together_end_all_that_is_theirs_and_nothing_else() {
    let Some(node) = Node::new("closed-together") else {
        return;
    };
    node.run(|kernel| {
        let listeners = [0, 1, 2].map(|nth| listen(PORT + nth));
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = |nth: u16| support::key(TCP, PORT + nth);
        let held = [0, 1, 2].map(|nth| {
            let lease = support::lease(1, 7 + u64::from(nth));
            kernel.put_lease(key(nth), &lease).expect("lease");
            connect(v4(PORT + nth)).expect("a user")
        });
        let udp = support::key(UDP, PORT);
        kernel
            .put_lease(udp, &support::lease(1, 17))
            .expect("lease");
        let _flows = figures::flows(PORT, 2);
        let nobodys = support::key(TCP, PORT + 3);
        let told = kernel.remove_leases(&[key(0), udp, nobodys, key(1)]);
        let told = told.expect("closed");
        let is_there: Vec<bool> = told.iter().map(Option::is_some).collect();
        assert_eq!(is_there, [true, true, false, true]);
        let left: Vec<_> = kernel.leases().expect("leases");
        assert_eq!(
            left.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            [key(2)]
        );
        eventually("its users are gone", || {
            let counts = kernel.counts(1).expect("counts");
            (counts.usage.conns, counts.flows) == (1, 0)
        });
        drop((held, listeners));
    });
}

#[test]
fn a_lease_that_changes_counts_on_and_another_begins_at_nothing() {
    let Some(node) = Node::new("counts-on") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(|kernel| {
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = support::key(TCP, PORT);
        let lease = support::lease(1, 7);
        kernel.put_lease(key, &lease).expect("lease");
        let counted = count(&root, key);
        let later = abi::Lease {
            expires_ns: u64::MAX,
            ..lease
        };
        kernel.put_lease(key, &later).expect("changed");
        assert_eq!(counts(&kernel, key), counted);
        assert_eq!(kernel.leases().expect("leases")[0].1.expires_ns, u64::MAX);
        // In its place, and where it was until a moment ago.
        kernel.put_lease(key, &support::lease(1, 8)).expect("lease");
        assert_eq!(counts(&kernel, key), LeaseCounts::default(), "on no CPU");
        let counted = count(&root, key);
        let told = kernel.remove_lease(key).expect("closed");
        assert_eq!(told, Some(counted));
        kernel.put_lease(key, &support::lease(1, 9)).expect("lease");
        assert_eq!(counts(&kernel, key), LeaseCounts::default());
    });
}
