//! The connections that a node bears, of all tenants together.

use std::net::TcpListener;

use aya::maps::{HashMap, MapData};
use totoro_api::Reason;
use totoro_ebpf::abi::{NODE, TCP, Usage};
use totoro_node::kernel::Kernel;

use crate::sockets::{PORT, connect, five, listen, v4, v6};
use crate::support::{self, Node, eventually};

fn two_tenants(kernel: &Kernel) {
    for (tenant, port) in [(1, PORT), (2, PORT + 1)] {
        kernel.put_tenant(tenant, &five()).expect("tenant");
        let lease = support::lease(tenant, u64::from(tenant));
        kernel
            .put_lease(support::key(TCP, port), &lease)
            .expect("lease");
    }
}

#[test]
fn all_tenants_together_have_what_the_node_bears() {
    let Some(node) = Node::new("total") else {
        return;
    };
    let node = node.with(|options| options.max_conns_total = 3);
    let options = node.options();
    node.run(move |kernel| {
        let (first, second) = (listen(PORT), listen(PORT + 1));
        two_tenants(&kernel);
        let both = |to, listener: &TcpListener| {
            let user = connect(to).ok()?;
            Some((user, listener.accept().expect("accept").0))
        };
        let mut held = vec![
            both(v4(PORT), &first).expect("the first"),
            both(v6(PORT), &first).expect("the second"),
            both(v4(PORT + 1), &second).expect("the third"),
        ];
        for to in [v4(PORT), v6(PORT + 1)] {
            let error = connect(to).expect_err("the node is full");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        let refused = kernel.refused().expect("counters");
        for tenant in [1, 2] {
            assert!(
                refused
                    .iter()
                    .any(|r| (r.tenant, r.reason) == (tenant, Reason::NodeFull)),
                "{refused:?}"
            );
        }
        held.pop();
        eventually("one has left, one may come", || {
            both(v4(PORT), &first).map(|pair| held.push(pair)).is_some()
        });
        // Another daemon, told of more room: what lives is counted, and stays.
        drop(kernel);
        let more = totoro_node::kernel::KernelOptions {
            max_conns_total: 4,
            ..options
        };
        let kernel = Kernel::load(&more).expect("adopts");
        held.push(both(v4(PORT + 1), &second).expect("the fourth"));
        assert!(connect(v4(PORT + 1)).is_err(), "and no fifth");
        drop(held);
        eventually("nobody is left", || {
            kernel.connections().is_ok_and(|conns| conns.is_empty())
        });
        let _again: Vec<_> = (0..4)
            .map(|_| connect(v4(PORT)).expect("room for four"))
            .collect();
    });
}

#[test]
fn counts_that_were_tampered_with_are_mended_at_the_next_start() {
    let Some(node) = Node::new("drift") else {
        return;
    };
    let node = node.with(|options| options.max_conns_total = 3);
    let options = node.options();
    node.run(move |kernel| {
        let (first, _second) = (listen(PORT), listen(PORT + 1));
        two_tenants(&kernel);
        let _held = (connect(v4(PORT)).expect("connect"), first.accept());
        let usage = support::pinned(&options.pin_root, "USAGE");
        let mut usage: HashMap<MapData, u32, Usage> = usage.try_into().expect("hash");
        let mut kernel = Some(kernel);
        for (of, conns) in [
            (NODE, 1_000),
            (NODE, 0),
            (NODE, u64::MAX),
            (1, 5),
            (1, 0),
            (1, u64::MAX - 2),
        ] {
            drop(kernel.take());
            let is = usage.get(&of, 0).expect("counts");
            assert_eq!(is.conns, 1);
            usage.insert(of, Usage { conns, ..is }, 0).expect("tamper");
            if conns > 1 {
                connect(v4(PORT)).expect_err("full, it seems");
            }
            let loaded = Kernel::load(&options).expect("adopts");
            assert_eq!(usage.get(&of, 0).expect("counts").conns, 1, "{of}: {conns}");
            let swept = [(); 2].map(|()| loaded.sweep().expect("sweep").drifted);
            assert_eq!(swept, [1, 0], "told once");
            kernel = Some(loaded);
        }
        let _two = [PORT, PORT + 1].map(|port| connect(v4(port)).expect("room for two"));
        connect(v4(PORT)).expect_err("and for no more");
    });
}
