//! The table of UDP flows: sources that take all, a table that is full.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use totoro_api::Reason;
use totoro_ebpf::abi::{self, Tenant, UDP};
use totoro_node::kernel::Kernel;

use crate::figures;
use crate::sockets::{PORT, five, lend, v4, v6};
use crate::support::{self, Node, refused};

pub(crate) type Flows = HashMap<MapData, abi::FlowKey, abi::Flow>;
pub(crate) type Sources = HashMap<MapData, abi::SourceKey, abi::Source>;

/// A user who has heard from the server.
pub(crate) fn answered(server: &UdpSocket, own: SocketAddr, to: SocketAddr) -> Option<UdpSocket> {
    let user = UdpSocket::bind(own).expect("bind");
    user.set_read_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    user.connect(to).expect("connect");
    user.send(b"hello").expect("send");
    let (_, from) = server.recv_from(&mut [0; 16]).ok()?;
    server.send_to(b"answer", from).ok()?;
    user.recv(&mut [0; 16]).ok()?;
    Some(user)
}

#[test]
fn a_refused_datagram_is_answered_by_icmp() {
    let Some(node) = Node::new("icmp") else {
        return;
    };
    node.run(|kernel| {
        let _bound = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind");
        for (own, to) in [(v4(0), v4(PORT)), (v6(0), v6(PORT))] {
            let user = UdpSocket::bind(own).expect("bind");
            user.connect(to).expect("connect");
            user.set_read_timeout(Some(Duration::from_secs(2)))
                .expect("timeout");
            user.send(b"anyone?").expect("send");
            let error = user.recv(&mut [0; 16]).expect_err("nobody");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
        }
        assert_eq!(refused(&kernel, Reason::NoLease), 2);
    });
}

#[test]
fn one_source_has_its_share_of_flows_and_gets_it_back() {
    let Some(node) = Node::new("flow-sources") else {
        return;
    };
    // Loading may take longer than a flow that is not confirmed lives.
    let node = node.with(|options| options.flow_idle_s = 600);
    let options = node.options();
    node.run(move |kernel| {
        let limits = Tenant {
            max_flows: 100,
            max_conns_per_source: 2,
            ..five()
        };
        lend(&kernel, UDP, &limits);
        let (server, users) = figures::flows(PORT, 2);
        figures::confirm(&server, &users, PORT);
        server
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("timeout");
        assert!(answered(&server, v4(0), v4(PORT)).is_none(), "its third");
        assert_eq!(refused(&kernel, Reason::MaxConnsPerSource), 1);
        let _other = answered(&server, v6(0), v6(PORT)).expect("another source");
        // A daemon that was killed between removing a flow and taking its charge back.
        drop(kernel);
        let flows = support::pinned(&options.pin_root, "FLOWS");
        let mut flows: Flows = flows.try_into().expect("hash");
        let is_v4 = |key: &abi::FlowKey| key.remote == abi::v4_mapped([127, 0, 0, 1]);
        let one = flows.keys().flatten().find(is_v4).expect("a flow");
        flows.remove(&one).expect("remove");
        let kernel = Kernel::load(&options).expect("adopts");
        let again = answered(&server, v4(0), v4(PORT)).expect("room for one");
        again.send(b"again").expect("send");
        server.recv_from(&mut [0; 16]).expect("it goes on");
        assert!(answered(&server, v4(0), v4(PORT)).is_none(), "and no more");
        // The lease ends, and another begins: nobody is charged for what was.
        let key = support::key(UDP, PORT);
        kernel.remove_lease(key).expect("close");
        kernel.put_lease(key, &support::lease(1, 8)).expect("lease");
        drop(server);
        let (_server, _users) = figures::flows(PORT, 2);
    });
}

#[test]
fn a_full_table_of_flows_refuses_and_keeps_nothing() {
    let Some(node) = Node::new("full-flows") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        lend(&kernel, UDP, &five());
        let flows = support::pinned(&root, "FLOWS");
        let mut flows: Flows = flows.try_into().expect("hash");
        let key = |nth: u32| abi::FlowKey {
            remote: u128::from(nth).to_be_bytes(),
            ..abi::FlowKey::default()
        };
        let others = abi::Flow {
            tenant: 9,
            last_ns: u64::MAX / 2,
            ..abi::Flow::default()
        };
        let mut nth = 0;
        while flows.insert(key(nth), others, 0).is_ok() {
            nth += 1;
        }
        assert_eq!(nth, 65_536);
        let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind");
        server
            .set_read_timeout(Some(Duration::from_millis(300)))
            .expect("timeout");
        for _ in 0..20 {
            assert!(answered(&server, v4(0), v4(PORT)).is_none(), "no room");
        }
        assert!(refused(&kernel, Reason::NodeFull) >= 20);
        assert_eq!(
            kernel.counts(1).expect("counts").flows,
            0,
            "nothing charged"
        );
        // Nothing rare is due in the second sweep.
        kernel.sweep().expect("sweep");
        let begun = std::time::Instant::now();
        kernel.sweep().expect("sweep");
        println!("looked through {nth} live flows in {:?}", begun.elapsed());
        for one in 0..3 {
            flows.remove(&key(one)).expect("remove");
        }
        let _three = [0; 3].map(|_| answered(&server, v4(0), v4(PORT)).expect("room for three"));
    });
}

#[test]
fn a_source_that_can_not_be_right_keeps_nobody_busy() {
    let Some(node) = Node::new("stuck-source") else {
        return;
    };
    let options = node.options();
    node.run(move |kernel| {
        lend(&kernel, UDP, &five());
        let sources = support::pinned(&options.pin_root, "SOURCES");
        let mut sources: Sources = sources.try_into().expect("hash");
        let key = |last| abi::SourceKey {
            prefix: abi::v4_mapped([127, 0, 0, last]),
            tenant: 1,
            kind: abi::SOURCE_FLOWS,
        };
        // More than could be taken back one by one; and one whose removal was begun, and failed.
        let source = |conns| abi::Source {
            conns,
            last_ns: totoro_node::kernel::boot_ns(),
        };
        sources.insert(key(1), source(1 << 60), 0).expect("insert");
        sources.insert(key(2), source(1 << 63), 0).expect("insert");
        drop(kernel);
        let kernel = Kernel::load(&options).expect("adopts");
        assert_eq!(sources.get(&key(1), 0).expect("there").conns, 0);
        assert_eq!(kernel.sweep().expect("sweep").drifted, 1);
        let long_ago = abi::Source {
            conns: 1 << 63,
            last_ns: 0,
        };
        sources.insert(key(2), long_ago, 0).expect("insert");
        // Where there is anybody, what is idle is looked for with each sweep, and among the sources every
        // few seconds.
        let (_server, _users) = figures::flows(PORT, 3);
        support::eventually("the one that was stuck is gone", || {
            kernel.sweep().expect("sweep");
            sources.get(&key(2), 0).is_err()
        });
        assert_eq!(sources.get(&key(1), 0).expect("there").conns, 3);
    });
}
