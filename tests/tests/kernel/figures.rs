//! Counts and figures: what is told is what was.

use std::net::{Ipv6Addr, UdpSocket};
use std::time::Duration;

use totoro_api::Reason;
use totoro_ebpf::abi::{CUT, TCP, Tenant, UDP};
use totoro_node::kernel::Kernel;

use crate::sockets::{PORT, connect, five, lend, lend_public, listen, v4, v6};
use crate::support::{self, Node, eventually};

/// A server on a port and `count` flows that it has answered, kept open.
pub(crate) fn flows(port: u16, count: usize) -> (UdpSocket, Vec<UdpSocket>) {
    let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind");
    server
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("timeout");
    let users = (0..count)
        .map(|_| {
            let user = UdpSocket::bind(v4(0)).expect("bind");
            user.send_to(b"hello", v4(port)).expect("send");
            let (_, from) = server.recv_from(&mut [0; 16]).expect("delivered");
            server.send_to(b"answer", from).expect("answered");
            user
        })
        .collect();
    (server, users)
}

/// Has the users of flows that were answered write again, which confirms them.
pub(crate) fn confirm(server: &UdpSocket, users: &[UdpSocket], port: u16) {
    for user in users {
        user.send_to(b"again", v4(port)).expect("send");
        server.recv_from(&mut [0; 16]).expect("confirmed");
    }
}

/// A public tenant, its parent, and a UDP lease.
fn public(kernel: &Kernel, max_flows: u32) {
    let all = Tenant {
        max_flows,
        ..five()
    };
    lend_public(kernel, UDP, &all, five());
}

#[test]
fn a_cut_gives_the_parents_flows_back_too() {
    let Some(node) = Node::new("parent-cut") else {
        return;
    };
    node.run(|kernel| {
        public(&kernel, 3);
        let _flows = flows(PORT, 2);
        let counts = [1, 9].map(|tenant| kernel.counts(tenant).expect("counts").flows);
        assert_eq!(counts, [2, 2]);
        // Whatever the record of the cut says of a parent.
        let cut = Tenant {
            state: CUT,
            reason: Reason::InviteRevoked.number(),
            ..Tenant::default()
        };
        kernel.put_tenant(1, &cut).expect("cut");
        assert_eq!(kernel.destroy_tenant(1).expect("destroy"), 2);
        let counts = [1, 9].map(|tenant| kernel.counts(tenant).expect("counts").flows);
        assert_eq!(counts, [0, 0]);
    });
}

#[test]
fn all_children_of_a_parent_share_its_ceiling_of_flows() {
    let Some(node) = Node::new("parent-udp") else {
        return;
    };
    node.run(|kernel| {
        public(&kernel, 1);
        let (server, users) = flows(PORT, 1);
        confirm(&server, &users, PORT);
        let second = UdpSocket::bind(v4(0)).expect("bind");
        second.send_to(b"hello", v4(PORT)).expect("send");
        assert!(
            server.recv_from(&mut [0; 16]).is_err(),
            "the parent is full"
        );
        let refused = kernel.refused().expect("counters");
        assert!(
            refused.iter().any(|r| r.reason == Reason::PublicFull),
            "{refused:?}"
        );
    });
}

#[test]
fn a_daemon_counts_the_flows_that_are_there() {
    let Some(node) = Node::new("recount") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        public(&kernel, 3);
        let _flows = flows(PORT, 3);
        drop(kernel);
        // Killed between removing a flow and counting it.
        let map = aya::maps::MapData::from_pin(options.pin_root.join("v1/FLOWS")).expect("pin");
        let map = aya::maps::Map::from_map_data(map).expect("map");
        let mut map: aya::maps::HashMap<_, totoro_ebpf::abi::FlowKey, totoro_ebpf::abi::Flow> =
            map.try_into().expect("hash");
        let key = map.keys().next().expect("a flow").expect("key");
        map.remove(&key).expect("remove");
        let kernel = Kernel::load(&options).expect("adopts");
        let counts = [1, 9].map(|tenant| kernel.counts(tenant).expect("counts").flows);
        assert_eq!(counts, [2, 2]);
    });
}

#[test]
fn traffic_is_the_bytes_that_were_sent() {
    let Some(node) = Node::new("bytes") else {
        return;
    };
    node.run(|kernel| {
        public(&kernel, 3);
        let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind");
        server
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("timeout");
        for (own, to, header) in [(v4(0), v4(PORT), 28), (v6(0), v6(PORT), 48)] {
            let before = kernel
                .lease_counts(1, support::key(UDP, PORT))
                .expect("traffic");
            let user = UdpSocket::bind(own).expect("bind");
            for _ in 0..10 {
                user.send_to(&[1; 100], to).expect("send");
                let (_, from) = server.recv_from(&mut [0; 128]).expect("delivered");
                server.send_to(&[2; 300], from).expect("answered");
            }
            let after = kernel
                .lease_counts(1, support::key(UDP, PORT))
                .expect("traffic");
            assert_eq!(after.bytes_in - before.bytes_in, 10 * (100 + header));
            assert_eq!(after.bytes_out - before.bytes_out, 10 * (300 + header));
            assert_eq!(after.packets_in - before.packets_in, 10);
            assert_eq!(after.packets_out - before.packets_out, 10);
        }
    });
}

#[test]
fn two_who_come_and_go_at_once_leave_nothing_counted() {
    let Some(node) = Node::new("two") else { return };
    node.run(|kernel| {
        let listener = listen(PORT);
        let all = Tenant {
            max_conns: 1000,
            max_conns_per_source: 1000,
            ..five()
        };
        lend(&kernel, TCP, &all);
        std::thread::scope(|scope| {
            for to in [v4(PORT), v6(PORT), v4(PORT)] {
                // A thread begins in its maker's namespace.
                scope.spawn(move || {
                    for _ in 0..300 {
                        connect(to).expect("connect");
                    }
                });
            }
            for _ in 0..900 {
                drop(listener.accept().expect("accept"));
            }
        });
        eventually("the count is back to 0", || {
            kernel.counts(1).is_ok_and(|c| c.usage.conns == 0)
                && kernel.connections().is_ok_and(|conns| conns.is_empty())
        });
        assert_eq!(kernel.counts(1).expect("counts").usage.admitted, 900);
        // Nor on the sources.
        kernel
            .put_tenant(
                1,
                &Tenant {
                    max_conns_per_source: 1,
                    ..five()
                },
            )
            .expect("tenant");
        let _held = [v4(PORT), v6(PORT)].map(|to| connect(to).expect("room for one"));
        assert!(connect(v4(PORT)).is_err(), "and for no second");
    });
}

/// Who reads traffic only where something happened relies on it.
#[test]
fn datagrams_that_no_count_tells_of_are_written_down() {
    let Some(node) = Node::new("unheard-of") else {
        return;
    };
    node.run(|kernel| {
        lend(&kernel, UDP, &five());
        let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind");
        let user = UdpSocket::bind(v4(0)).expect("bind");
        let counts = || kernel.counts(1).expect("counts");
        let mut from = None;
        let mut last_ns = 0;
        for what in ["the first", "another", "an answer"] {
            // The programs' clock goes by the kernel's ticks.
            std::thread::sleep(Duration::from_millis(50));
            match from.filter(|_| what == "an answer") {
                Some(from) => server.send_to(b"answer", from).map(drop).expect("send"),
                None => {
                    user.send_to(b"hello", v4(PORT)).expect("send");
                    let (_, user) = server.recv_from(&mut [0; 16]).expect("delivered");
                    from = Some(user);
                }
            }
            let now = counts();
            assert!(now.usage.last_ns > last_ns, "{what}: {now:?}");
            assert_eq!(now.flows, u64::from(what == "an answer"), "{what}");
            last_ns = now.usage.last_ns;
        }
    });
}
