//! UDP: reply-only, counted once answered, bounded until the user proves its address.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::support::{self, Node, eventually};
use totoro_api::Reason;
use totoro_ebpf::abi::{CUT, HELD, Tenant, UDP};

use crate::sockets::{PORT, five, lend, v4, v6};

#[test]
fn a_socket_that_can_not_be_tagged_gets_no_port_of_the_pool() {
    const ROOM: &str = "/proc/sys/net/core/optmem_max";
    let Some(node) = Node::new("untagged") else {
        return;
    };
    node.run(|kernel| {
        lend(&kernel, UDP, &five());
        // What a socket may have beside its data, tags included.
        let Ok(before) = std::fs::read_to_string(ROOM) else {
            eprintln!("skipped: on this kernel {ROOM} is of all namespaces");
            return;
        };
        std::fs::write(ROOM, "16").expect("no room");
        let any = |port| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port));
        let refused = any(PORT).expect_err("nothing of it would be counted");
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        any(9).expect("no port of the pool's");
        std::fs::write(ROOM, before).expect("room");
        any(PORT).expect("tagged");
    });
}

#[test]
fn udp_replies_only_and_counts_answered_flows() {
    let Some(node) = Node::new("udp") else { return };
    node.impatient().run(|kernel| {
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = support::key(UDP, PORT);
        kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind");
        server
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("timeout");
        let mut buffer = [0; 64];
        let users: Vec<UdpSocket> = (0..4)
            .map(|nth| {
                let (own, to) = if nth % 2 == 0 {
                    (v4(0), v4(PORT))
                } else {
                    (v6(0), v6(PORT))
                };
                let user = UdpSocket::bind(own).expect("bind");
                user.connect(to).expect("connect");
                user.set_read_timeout(Some(Duration::from_millis(300)))
                    .expect("timeout");
                user
            })
            .collect();
        // Unanswered flows count for nothing.
        for user in &users {
            user.send(b"hello").expect("send");
        }
        let from: Vec<SocketAddr> = (0..4)
            .map(|_| server.recv_from(&mut buffer).expect("delivered").1)
            .collect();
        assert_eq!(kernel.counts(1).expect("counts").flows, 0);
        for to in &from[..3] {
            server.send_to(b"answer", to).expect("answer");
        }
        let answered = |user: &&UdpSocket| user.recv(&mut [0; 64]).is_ok();
        let three: Vec<&UdpSocket> = users.iter().filter(answered).collect();
        assert_eq!(three.len(), 3);
        // Who hears an answer and goes on keeps its place.
        for user in three {
            user.send(b"again").expect("send");
            server.recv_from(&mut buffer).expect("confirmed");
        }
        server.send_to(b"answer", from[3]).expect_err("no room");
        assert_eq!(users.iter().filter(answered).count(), 0, "max_flows is 3");
        assert_eq!(kernel.counts(1).expect("counts").flows, 3);
        // Nobody who did not write first is written to, loopback least of all.
        let stranger = UdpSocket::bind(v4(0)).expect("bind");
        stranger
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("timeout");
        let to = stranger.local_addr().expect("address");
        let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), to.port()));
        assert!(server.send_to(b"unasked", mapped).is_err(), "EPERM");
        assert!(stranger.recv(&mut buffer).is_err());
        let refused = kernel.refused().expect("counters");
        for reason in [Reason::ReplyOnly, Reason::MaxFlows] {
            assert!(
                refused.iter().any(|r| r.reason == reason),
                "{reason}: {refused:?}"
            );
        }
        // Idle flows end, and make room.
        eventually("idle flows are closed", || {
            kernel.sweep().expect("sweep");
            kernel.counts(1).is_ok_and(|c| c.flows == 0)
        });
    });
}

#[test]
fn a_user_who_wrote_once_gets_little_and_one_who_writes_again_gets_all() {
    let Some(node) = Node::new("reflector") else {
        return;
    };
    node.run(|kernel| {
        lend(&kernel, UDP, &five());
        let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind");
        let user = UdpSocket::bind(v4(0)).expect("bind");
        user.connect(v4(PORT)).expect("connect");
        user.set_read_timeout(Some(Duration::from_millis(200)))
            .expect("timeout");
        user.send(&[1; 100]).expect("send");
        let mut buffer = [0; 2048];
        let (_, from) = server.recv_from(&mut buffer).expect("delivered");
        let flood = || {
            // Past the budget the kernel says EPERM; what counts is what arrives.
            for _ in 0..60 {
                let _ = server.send_to(&[7; 1000], from);
            }
            let mut bytes = 0;
            while let Ok(read) = user.recv(&mut [0; 2048]) {
                bytes += read;
            }
            bytes
        };
        // 16 KiB and three times what came in, headers counted.
        let first = flood();
        assert!(
            (14_000..=16_384 + 3 * 128).contains(&first),
            "{first} bytes to one datagram"
        );
        user.send(b"I am real").expect("send");
        server.recv_from(&mut buffer).expect("delivered");
        assert_eq!(flood(), 60_000, "the address is proven");
        let refused = kernel.refused().expect("counters");
        assert!(
            refused.iter().any(|r| r.reason == Reason::ReplyOnly),
            "{refused:?}"
        );
    });
}

#[test]
fn revocation_and_the_end_of_a_lease_silence_udp_both_ways() {
    let Some(node) = Node::new("udp-cut") else {
        return;
    };
    node.run(|kernel| {
        kernel.put_tenant(1, &five()).expect("tenant");
        let key = support::key(UDP, PORT);
        kernel.put_lease(key, &support::lease(1, 7)).expect("lease");
        let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind");
        server
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("timeout");
        let user = UdpSocket::bind(v6(0)).expect("bind");
        user.connect(v6(PORT)).expect("connect");
        user.set_read_timeout(Some(Duration::from_millis(200)))
            .expect("timeout");
        let mut buffer = [0; 64];
        let mut exchange = || {
            // A refused datagram before may have left an ICMP error on the socket.
            let _ = user.take_error();
            let sent = user.send(b"ping").is_ok();
            let got = server.recv_from(&mut buffer);
            got.is_ok_and(|(_, from)| server.send_to(b"pong", from).is_ok())
                && sent
                && user.recv(&mut buffer).is_ok()
        };
        assert!(exchange() && exchange(), "a flow");
        let paused = Tenant {
            state: HELD,
            reason: Reason::InvitePaused.number(),
            ..five()
        };
        kernel.put_tenant(1, &paused).expect("pause");
        assert!(exchange(), "what flows goes on");
        let cut = Tenant {
            state: CUT,
            reason: Reason::InviteRevoked.number(),
            ..five()
        };
        kernel.put_tenant(1, &cut).expect("revoke");
        assert!(!exchange(), "not a datagram");
        assert_eq!(kernel.destroy_tenant(1).expect("destroy"), 1, "one flow");
        kernel.put_tenant(1, &five()).expect("back");
        assert!(exchange(), "a new flow");
        kernel.remove_lease(key).expect("close");
        let traffic = kernel.lease_counts(1, key).expect("counts");
        assert!(
            traffic.packets_in >= 4 && traffic.packets_out >= 4,
            "{traffic:?}"
        );
        assert!(!exchange(), "no lease");
        assert_eq!(kernel.counts(1).expect("counts").flows, 0);
        // The socket that was bound under the lease can't write to anybody any more.
        let stranger = UdpSocket::bind(v6(0))
            .expect("bind")
            .local_addr()
            .expect("address");
        assert!(server.send_to(b"late", stranger).is_err(), "EPERM");
    });
}
