//! Tables without room: said, and nothing half-written.

use std::time::Duration;

use aya::maps::{HashMap, MapData, MapError, PerCpuHashMap, PerCpuValues};
use totoro_api::Reason;
use totoro_ebpf::abi::{self, TCP, UDP};

use crate::sockets::{PORT, connect, five, lend, listen, v4};
use crate::support::{self, Node, eventually, pinned};

type Ports = HashMap<MapData, abi::PortKey, abi::PortUsage>;
type Sources = HashMap<MapData, abi::SourceKey, abi::Source>;
type Traffic = PerCpuHashMap<MapData, abi::TrafficKey, abi::Traffic>;

#[test]
fn a_lease_that_finds_no_room_leaves_nothing() {
    let Some(node) = Node::new("full") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = support::key(TCP, PORT);
        let lease = support::lease(1, 7);
        kernel.put_lease(key, &lease).expect("lease");
        let mut traffic: Traffic = pinned(&root, "TRAFFIC").try_into().expect("hash");
        let cpus = aya::util::nr_cpus().expect("CPUs");
        // Others' rows, until no more go in.
        let row = |nth: u32| abi::TrafficKey {
            tenant: 1_000 + nth,
            port: 1,
            proto: TCP,
            pad: 0,
        };
        let mut rows = 0;
        while rows < 65_536 {
            let zeros = PerCpuValues::try_from(vec![abi::Traffic::default(); cpus]);
            match traffic.insert(row(rows), zeros.expect("values"), 0) {
                Ok(()) => rows += 1,
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
                {
                    break;
                }
                // An old kernel's allocator is refilled behind our back, and may be slower.
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        assert_eq!(rows, 65_535, "with the lease's own");
        let other = support::key(UDP, PORT + 1);
        let error = kernel.put_lease(other, &lease).expect_err("no room");
        assert!(error.is_full(), "{}", support::chain(&error));
        let usage: Ports = pinned(&root, "PORT_USAGE").try_into().expect("hash");
        let left: Vec<abi::PortKey> = usage.keys().flatten().collect();
        assert_eq!(left, [key], "as before");
        assert_eq!(kernel.leases().expect("leases").len(), 1);
        // A lease that is there can be changed all the same.
        kernel.put_lease(key, &lease).expect("changed");
        for nth in 0..rows {
            traffic.remove(&row(nth)).expect("remove");
        }
        // What a killed daemon left of a lease is not the next one's.
        let left = abi::Traffic {
            bytes_in: 5,
            ..abi::Traffic::default()
        };
        let half = abi::TrafficKey {
            tenant: 1,
            port: PORT + 1,
            proto: UDP,
            pad: 0,
        };
        let values = PerCpuValues::try_from(vec![left; cpus]).expect("values");
        traffic.insert(half, values, 0).expect("insert");
        kernel.put_lease(other, &lease).expect("room again");
        let counts = kernel.lease_counts(1, other).expect("counts");
        assert_eq!(counts.bytes_in, 0);
        kernel.remove_lease(other).expect("removed");
        kernel.forget_lease(1, other).expect("forgotten");
        let left = traffic.keys().flatten().count();
        assert_eq!(left, 1, "only the live lease's");
    });
}

#[test]
fn a_full_table_of_sources_says_so() {
    let Some(node) = Node::new("full-sources") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        let _listener = listen(PORT);
        lend(&kernel, TCP, &five());
        let mut sources: Sources = pinned(&root, "SOURCES").try_into().expect("hash");
        let key = |nth: u64| abi::SourceKey {
            tenant: 9,
            prefix: u128::from(nth).to_be_bytes(),
            kind: abi::SOURCE_CONNS,
        };
        let fill = |sources: &mut Sources, count, source| {
            (0..count)
                .take_while(|nth| sources.insert(key(*nth), source, 0).is_ok())
                .count() as u64
        };
        let busy = abi::Source {
            conns: 1,
            last_ns: 0,
        };
        let all = fill(&mut sources, u64::MAX, busy);
        // Established, found uncountable, and destroyed, perhaps before `connect` has returned.
        let _client = connect(v4(PORT));
        eventually("refused for what it is", || {
            let refused = kernel.refused().expect("counters");
            refused
                .iter()
                .any(|r| (r.tenant, r.reason) == (1, Reason::NodeFull))
        });
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 0);
        // Idle since the beginning of time: forgotten when the next comes, though no daemon has swept
        // for two seconds.
        assert_eq!(fill(&mut sources, all, abi::Source::default()), all);
        std::thread::sleep(Duration::from_millis(2_100));
        let _client = connect(v4(PORT)).expect("room");
        assert_eq!(kernel.counts(1).expect("counts").usage.conns, 1);
        assert_eq!(sources.keys().count(), 1, "only the user's own");
    });
}
