//! The connections that a node bears, of all tenants together.

use std::net::TcpListener;

use totoro_api::Reason;
use totoro_ebpf::abi::TCP;
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
