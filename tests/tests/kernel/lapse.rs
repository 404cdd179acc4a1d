//! What lives ends with its lease or its tenant, by the kernel alone.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use totoro_api::Reason;
use totoro_ebpf::abi::{TCP, Tenant, UDP};
use totoro_node::kernel::{Inspector, boot_ns};

use crate::figures;
use crate::sockets::{PORT, connect, five, lend, listen, v4};
use crate::support::{self, Node};

const SOON_NS: u64 = 400_000_000;

fn until() -> u64 {
    boot_ns() + SOON_NS
}

/// Whether a byte of the client's arrives.
fn arrives(client: &mut TcpStream, server: &mut TcpStream) -> bool {
    server
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("timeout");
    client.write_all(b"x").is_ok() && matches!(server.read(&mut [0; 1]), Ok(1))
}

/// Whether a datagram of the user's is answered.
fn answered(server: &UdpSocket, user: &UdpSocket) -> bool {
    server
        .set_read_timeout(Some(Duration::from_millis(200)))
        .expect("timeout");
    user.set_read_timeout(Some(Duration::from_millis(200)))
        .expect("timeout");
    let _ = user.send_to(b"again", v4(PORT));
    let Ok((_, from)) = server.recv_from(&mut [0; 16]) else {
        return false;
    };
    server.send_to(b"answer", from).is_ok() && user.recv(&mut [0; 16]).is_ok()
}

fn is_counted(all: &[totoro_node::kernel::Refused], reason: Reason) -> bool {
    all.iter().any(|r| (r.tenant, r.reason) == (1, reason))
}

#[test]
fn the_end_of_a_session_cuts_what_flows() {
    let Some(node) = Node::new("lapse") else {
        return;
    };
    node.run(|kernel| {
        let listener = listen(PORT);
        kernel.put_tenant(1, &five()).expect("tenant");
        for proto in [TCP, UDP] {
            let mut lease = support::lease(1, 7);
            lease.expires_ns = until();
            kernel
                .put_lease(support::key(proto, PORT), &lease)
                .expect("lease");
        }
        let mut client = connect(v4(PORT)).expect("connect");
        let mut server = listener.accept().expect("accept").0;
        let (udp, users) = figures::flows(PORT, 1);
        assert!(users[0].recv(&mut [0; 16]).is_ok(), "the first answer");
        assert!(arrives(&mut client, &mut server) && answered(&udp, &users[0]));
        std::thread::sleep(Duration::from_nanos(SOON_NS));
        assert!(!arrives(&mut client, &mut server), "TCP after the end");
        assert!(!answered(&udp, &users[0]), "UDP after the end");
        let refused = kernel.refused().expect("counters");
        assert!(is_counted(&refused, Reason::SessionExpired), "{refused:?}");
        // Extended, it goes on.
        for proto in [TCP, UDP] {
            kernel
                .put_lease(support::key(proto, PORT), &support::lease(1, 7))
                .expect("lease");
        }
        assert!(answered(&udp, &users[0]), "extended");
    });
}

#[test]
fn another_lease_of_the_port_is_not_the_old_ones() {
    let Some(node) = Node::new("another") else {
        return;
    };
    node.run(|kernel| {
        let listener = listen(PORT);
        kernel.put_tenant(1, &five()).expect("tenant");
        for proto in [TCP, UDP] {
            kernel
                .put_lease(support::key(proto, PORT), &support::lease(1, 7))
                .expect("lease");
        }
        let mut client = connect(v4(PORT)).expect("connect");
        let mut server = listener.accept().expect("accept").0;
        let (udp, users) = figures::flows(PORT, 1);
        assert!(users[0].recv(&mut [0; 16]).is_ok(), "the first answer");
        assert!(arrives(&mut client, &mut server) && answered(&udp, &users[0]));
        for proto in [TCP, UDP] {
            kernel
                .put_lease(support::key(proto, PORT), &support::lease(1, 8))
                .expect("lease");
        }
        assert!(!arrives(&mut client, &mut server), "of the old lease");
        assert!(!answered(&udp, &users[0]), "bound under the old lease");
        let refused = kernel.refused().expect("counters");
        assert!(is_counted(&refused, Reason::NoLease), "{refused:?}");
    });
}

#[test]
fn a_live_connection_is_cut_by_expiry_with_the_daemon_gone() {
    let Some(node) = Node::new("expiry-live") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        let listener = listen(PORT);
        let soon = Tenant {
            expires_ns: until(),
            ..five()
        };
        lend(&kernel, TCP, &soon);
        drop(kernel);
        let mut client = connect(v4(PORT)).expect("connect");
        let mut server = listener.accept().expect("accept").0;
        assert!(arrives(&mut client, &mut server));
        std::thread::sleep(Duration::from_nanos(SOON_NS));
        assert!(!arrives(&mut client, &mut server), "nobody acted");
        let inspector = Inspector::open(&root).expect("pins");
        let refused = inspector.refused().expect("counters");
        assert!(is_counted(&refused, Reason::InviteExpired), "{refused:?}");
    });
}
