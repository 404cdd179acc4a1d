//! UDP from addresses that no user has, through headers that nobody needs, to everybody at once.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use totoro_api::Reason;
use totoro_ebpf::abi::{HELD, Tenant, UDP};
use totoro_node::kernel::Kernel;
use totoro_packets::build::{Extension, packet};

use crate::sockets::{PORT, five, lend};
use crate::support::{Node, Peer, ip};
use crate::wire::{NODE_MAC, NODE4, NODE6, USER6, link_up};

fn server(kernel: &Kernel) -> UdpSocket {
    lend(kernel, UDP, &five());
    let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind");
    server
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("timeout");
    server
}

/// Sends a datagram from an address of the peer's.
fn send(peer: &Peer, from: IpAddr, to: SocketAddr) {
    peer.run(move || {
        let user = UdpSocket::bind((from, 4_000)).expect("bind");
        user.set_broadcast(true).expect("broadcast");
        user.send_to(b"hello", to).expect("send");
    });
}

fn refused(kernel: &Kernel, reason: Reason) -> u64 {
    let all = kernel.refused().expect("counters");
    all.iter()
        .filter(|r| (r.tenant, r.reason) == (1, reason))
        .map(|r| r.count)
        .sum()
}

#[test]
fn a_forged_source_opens_no_way_to_the_node_itself() {
    let Some(node) = Node::new("forged") else {
        return;
    };
    let before = || {
        let peer = link_up();
        ip(&["addr", "add", "fd77:9::3/64", "dev", "us0", "nodad"]);
        peer.run(|| {
            ip(&["addr", "add", "169.254.169.254/32", "dev", "peer0"]);
            // The node's own address, on somebody else's machine.
            ip(&["addr", "add", "fd77:9::1/128", "dev", "lo"]);
            ip(&[
                "neigh",
                "replace",
                "fd77:9::3",
                "lladdr",
                NODE_MAC,
                "dev",
                "peer0",
                "nud",
                "permanent",
            ]);
        });
        peer
    };
    node.run_after(before, |kernel, peer| {
        let server = server(&kernel);
        let mut buffer = [0; 16];
        let metadata: IpAddr = "169.254.169.254".parse().expect("address");
        let third: IpAddr = "fd77:9::3".parse().expect("address");
        for (from, to, nth) in [(metadata, NODE4, 1), (NODE6, third, 2)] {
            send(&peer, from, (to, PORT).into());
            assert!(server.recv_from(&mut buffer).is_err(), "{from}");
            assert_eq!(refused(&kernel, Reason::ReplyOnly), 2 * nth - 1, "{from}");
            let mapped = match from {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            assert!(server.send_to(b"in", (mapped, 4_000)).is_err(), "EPERM");
            assert_eq!(refused(&kernel, Reason::ReplyOnly), 2 * nth, "{from}");
        }
        // A service of the node's that was made to write to the port does not open it either.
        let own = UdpSocket::bind((NODE6, 4_053)).expect("bind");
        own.send_to(b"reflected", (NODE6, PORT)).expect("send");
        let (_, from) = server.recv_from(&mut buffer).expect("by the loopback");
        assert!(server.send_to(b"in", from).is_err(), "EPERM");
        // And who is real is served.
        send(&peer, USER6, (third, PORT).into());
        let (_, from) = server.recv_from(&mut buffer).expect("delivered");
        server.send_to(b"answer", from).expect("answered");
    });
}

#[test]
fn a_datagram_to_everybody_is_judged_though_no_lookup_saw_it() {
    let Some(node) = Node::new("broadcast") else {
        return;
    };
    node.run_after(link_up, |kernel, peer| {
        let server = server(&kernel);
        let user: IpAddr = "10.77.9.2".parse().expect("address");
        let all: SocketAddr = ([10, 77, 9, 255], PORT).into();
        send(&peer, user, all);
        server.recv_from(&mut [0; 16]).expect("delivered");
        let paused = Tenant {
            state: HELD,
            reason: Reason::InvitePaused.number(),
            ..five()
        };
        kernel.put_tenant(1, &paused).expect("pause");
        peer.run(move || {
            let other = UdpSocket::bind((user, 4_001)).expect("bind");
            other.set_broadcast(true).expect("broadcast");
            other.send_to(b"hello", all).expect("send");
        });
        assert!(server.recv_from(&mut [0; 16]).is_err(), "paused");
        assert_eq!(refused(&kernel, Reason::InvitePaused), 1);
    });
}

#[test]
fn a_datagram_behind_more_headers_than_are_followed_is_refused() {
    let Some(node) = Node::new("headers") else {
        return;
    };
    node.run_after(link_up, |kernel, peer| {
        let server = server(&kernel);
        for (extensions, passes) in [(2, true), (8, false)] {
            let frame = packet(USER6, NODE6, UDP, PORT).with(|p| {
                p.extensions = vec![Extension::new(60); extensions];
                p.ports.0 = 4_000 + extensions as u16;
            });
            let bytes = frame.bytes().split_off(14);
            peer.run(move || send_raw(&bytes));
            let delivered = server.recv_from(&mut [0; 16]).is_ok();
            assert_eq!(delivered, passes, "{extensions} extension headers");
        }
        assert_eq!(refused(&kernel, Reason::Unsupported), 1);
    });
}

/// Sends an IPv6 packet as it is.
fn send_raw(bytes: &[u8]) {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket,
    };
    use std::os::fd::AsRawFd;
    let fd = socket(
        AddressFamily::Inet6,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )
    .expect("raw socket");
    let IpAddr::V6(node) = NODE6 else {
        unreachable!("it is IPv6")
    };
    let to = SockaddrIn6::from(std::net::SocketAddrV6::new(node, 0, 0, 0));
    let sent = sendto(fd.as_raw_fd(), bytes, &to, MsgFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}
