//! What finds no room on its way to the daemon is counted; what is told is remembered; how full the tables are
//! is as the kernel has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};

use aya::maps::{MapInfo, MapType};
use totoro_api::Reason;
use totoro_ebpf::abi::{self, ACTIVE, TCP, Tenant};
use totoro_node::kernel::{Inspector, Kernel};
use totoro_node::machine::kernel_release;

use crate::sockets::{PORT, connect, five, listen, v4};
use crate::support::{Node, chain, eventually, key, lease};

/// More ended connections than the ring (512 KiB) has room for, at 112 bytes each.
const CONNECTIONS: u64 = 5_000;
/// What the daemon's queue holds.
const QUEUE: u64 = 4_096;

fn unlimited() -> Tenant {
    Tenant {
        state: ACTIVE,
        max_conns: u32::MAX,
        max_flows: u32::MAX,
        max_conns_per_source: u32::MAX,
        ..Tenant::default()
    }
}

#[test]
fn every_event_is_told_or_counted_as_lost() {
    let Some(node) = Node::new("lost") else {
        return;
    };
    let options = node.options();
    node.run(|kernel| {
        // Another daemon, which does not read yet.
        drop(kernel);
        let mut kernel = Kernel::load(&options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(kernel.lost().expect("lost"), Default::default());
        kernel.put_tenant(1, &unlimited()).expect("tenant");
        kernel
            .put_lease(key(TCP, PORT), &lease(1, 1))
            .expect("lease");
        let listener = TcpListener::bind(v4(PORT)).expect("bind");
        for _ in 0..CONNECTIONS {
            let user = connect(v4(PORT)).expect("connect");
            let server = listener.accept().expect("accept");
            drop(user);
            drop(server);
        }
        eventually("all have ended", || {
            let counts = kernel.counts(1).expect("counts").usage;
            (counts.admitted, counts.conns) == (CONNECTIONS, 0)
        });
        let lost = kernel.lost().expect("lost");
        assert!(lost.kernel > 0 && lost.kernel < CONNECTIONS, "{lost:?}");
        assert_eq!((lost.daemon, lost.last_s), (0, Some(0)));
        let there = CONNECTIONS - lost.kernel;
        // It reads, and nobody takes anything of what it has read.
        let mut events = kernel.start_events().expect("events");
        eventually("the ring is read", || {
            kernel.lost().expect("lost").daemon == there - QUEUE
        });
        let mut told = 0;
        while let Ok(event) = events.try_recv() {
            assert_eq!((event.kind, event.port), (abi::EVENT_CLOSED, PORT));
            told += 1;
        }
        let after = kernel.lost().expect("lost");
        assert_eq!(after.kernel, lost.kernel, "nothing more");
        assert_eq!(told + after.total(), CONNECTIONS, "{after:?}");
    });
}

#[test]
fn single_refusals_are_remembered_with_who_and_where() {
    let Some(node) = Node::new("remembered") else {
        return;
    };
    node.run(|kernel| {
        let _listener = listen(PORT);
        assert!(kernel.samples().is_empty());
        let began = totoro_node::kernel::boot_ns();
        connect(v4(PORT)).expect_err("nobody leases it");
        kernel
            .put_tenant(
                1,
                &Tenant {
                    max_conns: 1,
                    ..five()
                },
            )
            .expect("tenant");
        kernel
            .put_lease(key(TCP, PORT), &lease(1, 7))
            .expect("lease");
        let held = connect(v4(PORT)).expect("room for one");
        connect(v4(PORT)).expect_err("and no other");
        eventually("both are told of", || kernel.samples().len() == 2);
        let samples = kernel.samples();
        let told: Vec<_> = samples
            .iter()
            .map(|one| (one.tenant, one.port, one.proto, one.reason))
            .collect();
        assert_eq!(
            told,
            [
                (1, PORT, TCP, Reason::MaxConns),
                (0, PORT, TCP, Reason::NoLease)
            ]
        );
        for one in &samples {
            assert_eq!(one.source, Ipv4Addr::LOCALHOST);
            assert!(one.source_port != 0);
            // The programs' clock may be a tick behind.
            assert!(one.at_ns + 20_000_000 >= began, "{one:?} from {began}");
        }
        drop(held);
    });
}

#[test]
fn how_full_each_table_is_is_as_the_kernel_has_it() {
    let Some(node) = Node::new("fill") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        let pins = root.join(format!("v{}", abi::VERSION));
        let _listener = listen(PORT);
        for tenant in 1..=3 {
            kernel.put_tenant(tenant, &five()).expect("tenant");
        }
        for nth in 0..2 {
            kernel
                .put_lease(key(TCP, PORT + nth), &lease(1, u64::from(nth) + 1))
                .expect("lease");
        }
        let bans = ["192.0.2.0/24", "2001:db8::/32"].map(|net| (net.parse().expect("a net"), 0));
        kernel.set_bans(&BTreeMap::from(bans)).expect("bans");
        let users: Vec<_> = (0..4).map(|_| connect(v4(PORT)).expect("room")).collect();
        let fill = Inspector::open(&root).expect("pins").fill().expect("fill");
        let by_name: BTreeMap<_, _> = fill.iter().map(|one| (one.table, one)).collect();
        let entries = |table: &str| by_name[table].entries;
        // All tenants together are one of `USAGE`.
        for (table, count) in [
            ("PORTS", 2),
            ("PORT_USAGE", 2),
            ("TRAFFIC", 2),
            ("TENANTS", 3),
            ("USAGE", 4),
            ("FLOWS_CLOSED", 3),
            ("CONNS", 4),
            ("SOURCES", 1),
            ("FLOWS", 0),
            ("BANS", 2),
            ("SURPLUS", 0),
        ] {
            assert_eq!(entries(table), Some(count), "{table}");
        }
        assert_eq!(entries("SOCKETS"), None);
        let mut there = BTreeSet::new();
        for entry in std::fs::read_dir(&pins).expect("pins").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(info) = MapInfo::from_pin(entry.path()) else {
                continue;
            };
            if info.map_type().expect("type") == MapType::Array {
                continue;
            }
            let one = by_name.get(&*name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(
                one.max.unwrap_or(0),
                u64::from(info.max_entries()),
                "{name}"
            );
            // Linux 6.1 tells nothing of a socket's storage.
            let tells = name != "SOCKETS" || !kernel_release().starts_with("6.1.");
            assert!(
                !tells || one.memory.is_some_and(|bytes| bytes > 0),
                "{name}"
            );
            there.insert(name);
        }
        assert_eq!(there.len(), fill.len(), "{there:?}");
        drop(users);
    });
}
