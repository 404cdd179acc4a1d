//! The shield on a real interface: a veth pair to a user in a namespace of its own.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use totoro_api::Reason;
use totoro_ebpf::abi::{ACTIVE, TCP, Tenant, UDP};
use totoro_node::kernel::{Kernel, XdpMode};

use crate::support::{self, Node, Peer, ip};
use crate::wire::link_up;

const LEASED: u16 = 20_000;
const FREE: u16 = 20_001;
const SSH: u16 = 2_222;
const NODE4: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 1);
const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd77, 9, 0, 0, 0, 0, 0, 1);

pub(crate) fn connects(peer: &Peer, to: SocketAddr) -> Result<(), std::io::ErrorKind> {
    peer.run(move || {
        TcpStream::connect_timeout(&to, Duration::from_millis(400))
            .map(drop)
            .map_err(|e| e.kind())
    })
}

/// Whether a datagram of the peer's reaches a server here, and its answer the peer.
fn talks(peer: &Peer, server: &UdpSocket, to: SocketAddr) -> bool {
    server
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    let user = peer.run(move || {
        let any: SocketAddr = if to.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let user = UdpSocket::bind(any).expect("bind");
        user.connect(to).expect("connect");
        user.set_read_timeout(Some(Duration::from_millis(300)))
            .expect("timeout");
        user.send(b"hello").expect("send");
        user
    });
    let mut buffer = [0; 16];
    let Ok((_, from)) = server.recv_from(&mut buffer) else {
        return false;
    };
    server.send_to(b"answer", from).is_ok() && user.recv(&mut buffer).is_ok()
}

fn check(kernel: &Kernel, peer: &Peer) {
    let tenant = Tenant {
        state: ACTIVE,
        max_conns: 9,
        max_conns_per_source: 9,
        max_flows: 9,
        ..Tenant::default()
    };
    kernel.put_tenant(1, &tenant).expect("tenant");
    for proto in [TCP, UDP] {
        kernel
            .put_lease(support::key(proto, LEASED), &support::lease(1, 1))
            .expect("lease");
    }
    let listen = |port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("listen");
    let _listeners = [LEASED, FREE, SSH].map(listen);
    let bind = |port| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("bind");
    let [leased, free, outside] = [LEASED, FREE, SSH].map(bind);
    for node in [NODE4.into(), std::net::IpAddr::from(NODE6)] {
        let at = |port| SocketAddr::new(node, port);
        assert_eq!(connects(peer, at(LEASED)), Ok(()), "{node}: leased");
        assert_eq!(connects(peer, at(SSH)), Ok(()), "{node}: outside the pool");
        let dropped = Err(std::io::ErrorKind::TimedOut);
        assert_eq!(
            connects(peer, at(FREE)),
            dropped,
            "{node}: dropped before the stack"
        );
        assert!(talks(peer, &leased, at(LEASED)), "{node}: leased");
        assert!(talks(peer, &outside, at(SSH)), "{node}: outside the pool");
        assert!(!talks(peer, &free, at(FREE)), "{node}: no lease");
    }
    let refused = kernel.refused().expect("counters");
    assert!(
        refused
            .iter()
            .all(|r| (r.tenant, r.reason) == (0, Reason::NoLease)),
        "{refused:?}"
    );
    // A program on the node that asks from a pool-numbered port gets its answer.
    let server = peer.run(|| UdpSocket::bind((Ipv4Addr::new(10, 77, 9, 2), 53)).expect("bind"));
    server
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    free.set_read_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    let to = SocketAddr::from((Ipv4Addr::new(10, 77, 9, 2).to_ipv6_mapped(), 53));
    free.send_to(b"query", to).expect("send");
    let mut buffer = [0; 16];
    let (_, from) = server.recv_from(&mut buffer).expect("query arrives");
    server.send_to(b"answer", from).expect("send");
    free.recv_from(&mut buffer)
        .expect("the answer passes the shield");
}

fn run(name: &str, mode: XdpMode, expected: &str) {
    let Some(node) = Node::new(name) else { return };
    node.on(&["us0", "gone0"], mode)
        .run_after(link_up, |kernel, peer| {
            let [filter] = &kernel.filters()[..] else {
                panic!("{:?}", kernel.missing())
            };
            assert_eq!(filter.mode, expected, "{:?}", kernel.missing());
            let [missing] = &kernel.missing()[..] else {
                panic!("{:?}", kernel.missing())
            };
            assert!(
                missing.contains("gone0"),
                "an interface that is not there is reported"
            );
            check(&kernel, &peer);
        });
}

#[test]
fn native_xdp() {
    run("native", XdpMode::Native, "native");
}

#[test]
fn generic_xdp() {
    run("generic", XdpMode::Generic, "generic");
}

#[test]
fn tc_ingress() {
    run("tc", XdpMode::Off, "tc");
}

#[test]
fn auto_keeps_the_receive_offloads_of_a_veth() {
    run("auto", XdpMode::Auto, "tc");
}

#[test]
fn a_driver_without_native_xdp_gets_generic_and_it_is_said() {
    let Some(node) = Node::new("fallback") else {
        return;
    };
    node.on(&["lo"], XdpMode::Native).run(|kernel| {
        assert_eq!(kernel.filters()[0].mode, "generic");
        assert!(
            kernel.missing()[0].contains("no native XDP"),
            "{:?}",
            kernel.missing()
        );
    });
}

#[test]
fn an_interface_that_vanishes_costs_its_filter_and_nothing_else() {
    let Some(node) = Node::new("vanish") else {
        return;
    };
    let node = node.on(&["us0"], XdpMode::Native);
    let options = node.options();
    node.run_after(link_up, move |kernel, _peer| {
        let _listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, FREE)).expect("listen");
        ip(&["link", "del", "us0"]);
        kernel.sweep().expect("the sweep goes on");
        drop(kernel);
        let kernel = Kernel::load(&options).expect("loads all the same");
        assert!(
            kernel.missing()[0].contains("us0"),
            "{:?}",
            kernel.missing()
        );
        let links = options.pin_root.join("v1/links");
        let left = std::fs::read_dir(links).expect("links").flatten();
        assert!(
            left.into_iter()
                .all(|pin| !pin.file_name().to_string_lossy().contains("us0"))
        );
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, FREE)).expect_err("no lease");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

/// What the interface has for queues and filters, as an operator sees it.
fn qdiscs(interface: &str) -> String {
    let shown = std::process::Command::new("tc")
        .args(["qdisc", "show", "dev", interface])
        .output()
        .expect("tc runs");
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

#[test]
fn an_uninstallation_takes_back_the_qdiscs_that_were_added_and_leaves_an_operators() {
    let Some(node) = Node::new("qdiscs") else {
        return;
    };
    // Interfaces that come after the first load, so that there is a before.
    let options = node.options();
    node.run(move |kernel| {
        drop(kernel);
        totoro_node::kernel::uninstall(&options.pin_root).expect("uninstall");
        ip(&[
            "link", "add", "ours0", "type", "veth", "peer", "name", "theirs0",
        ]);
        let add = ["qdisc", "add", "dev", "theirs0", "clsact"];
        assert!(
            std::process::Command::new("tc")
                .args(add)
                .status()
                .expect("tc")
                .success()
        );
        let before = ["ours0", "theirs0"].map(qdiscs);
        let mut options = options.clone();
        options.interfaces = ["ours0", "theirs0"].map(str::to_owned).into();
        options.xdp = XdpMode::Off;
        drop(Kernel::load(&options).expect("loads"));
        let programs = totoro_node::kernel::attached_programs(&options.pin_root);
        assert!(!programs.is_empty());
        let removed = totoro_node::kernel::uninstall(&options.pin_root).expect("uninstall");
        assert_eq!(["ours0", "theirs0"].map(qdiscs), before);
        // Before TCX: both ways on both interfaces, and the qdisc of the one that had none.
        let now = aya::util::KernelVersion::current().expect("a version");
        let (filters, qdiscs) = match now < aya::util::KernelVersion::new(6, 6, 0) {
            true => (4, vec!["ours0"]),
            false => (0, vec![]),
        };
        assert_eq!(removed.filters.len(), filters, "{removed:?}");
        assert_eq!(removed.qdiscs, qdiscs);
        assert!(removed.used_qdiscs.is_empty() && !removed.pins.is_empty());
        assert!(!options.pin_root.exists(), "nothing is pinned");
        let left = totoro_node::kernel::still_loaded(&programs).expect("listed");
        assert!(left.is_empty(), "{left:?}");
    });
}
