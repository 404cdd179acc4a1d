//! New UDP flows wait for their first answer in one table, which all tenants share.

use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use totoro_ebpf::abi::{UDP, WAITING_EACH};

use crate::flows::{Flows, answered};
use crate::recycled::talkative;
use crate::sockets::{PORT, five, lend, v4};
use crate::support::{self, Node, ip};

/// More than the table has room for.
const FORGED: u32 = 20_000;
/// So many leases of one tenant take a flood's first burst past the shield.
const FLOODED: u16 = 3;

/// Sends a datagram each from so many sources that nobody has, to ports of the node's in turn; and does something in
/// between, now and then.
fn forge(ports: &[u16], mut between: impl FnMut()) {
    ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"]);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
    for nth in 0..FORGED {
        if nth.is_multiple_of(1_000) {
            between();
        }
        let [_, _, high, low] = nth.to_be_bytes();
        let from = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr {
                s_addr: u32::from_ne_bytes([198, 18, high, low]),
            },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let port = ports[nth as usize % ports.len()];
        let to = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let word = [IoSlice::new(b"forged")];
        let source = [ControlMessage::Ipv4PacketInfo(&from)];
        sendmsg(
            socket.as_raw_fd(),
            &word,
            &source,
            MsgFlags::empty(),
            Some(&to),
        )
        .expect("send");
    }
}

#[test]
fn a_flood_of_one_tenants_ports_leaves_its_neighbours_new_flows_alone() {
    let Some(node) = Node::new("waiting") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        lend(&kernel, UDP, &five());
        kernel.put_tenant(2, &five()).expect("tenant");
        let ports: Vec<u16> = (PORT + 1..=PORT + FLOODED).collect();
        let flooded = ports.iter().map(|port| {
            let lease = support::lease(2, u64::from(*port));
            kernel
                .put_lease(support::key(UDP, *port), &lease)
                .expect("lease");
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, *port)).expect("bind")
        });
        let flooded: Vec<UdpSocket> = flooded.collect();

        // A user writes, and the service takes its time.
        let server = talkative(PORT);
        let user = UdpSocket::bind(v4(0)).expect("bind");
        user.set_read_timeout(Some(Duration::from_secs(2)))
            .expect("timeout");
        user.send_to(b"hello", v4(PORT)).expect("send");
        let (_, from) = server.recv_from(&mut [0; 16]).expect("delivered");
        // Another is never answered, and writes on (to a log, say), at a port that is flooded.
        let sensor = UdpSocket::bind(v4(0)).expect("bind");
        let mut written = 0;
        forge(&ports, || {
            sensor.send_to(b"a line", v4(ports[0])).expect("send");
            written += 6 + 28;
        });
        server
            .send_to(b"answer", from)
            .expect("the user is still known");
        user.recv(&mut [0; 16]).expect("an answer");

        // Of the flood itself as many wait as a tenant may have (some places are the same), and who comes after it
        // is served.
        let waiting = support::pinned(&root, "CANDIDATES");
        let waiting: Flows = waiting.try_into().expect("hash");
        let of_flooded = waiting
            .iter()
            .flatten()
            .filter(|(_, flow)| flow.tenant == 2);
        let of_flooded: Vec<_> = of_flooded.collect();
        println!("{FORGED} forged sources: {} of them wait", of_flooded.len());
        let most = WAITING_EACH as usize;
        assert!((most * 95 / 100..=most).contains(&of_flooded.len()));
        let port = sensor.local_addr().expect("bound").port();
        let own = of_flooded.iter().find(|(key, _)| key.remote_port == port);
        let (_, own) = own.expect("who writes on waits on");
        assert_eq!(own.bytes_in, written, "and never began anew");
        drop(flooded);
        let server = talkative(ports[0]);
        answered(&server, v4(0), v4(ports[0])).expect("a real user is served");
    });
}

#[test]
fn who_comes_again_and_again_is_not_forgotten_by_the_notes_of_earlier_times() {
    let Some(node) = Node::new("waiting-again") else {
        return;
    };
    let root = node.options().pin_root;
    node.run(move |kernel| {
        lend(&kernel, UDP, &five());
        let _server = talkative(PORT);
        let waiting = support::pinned(&root, "CANDIDATES");
        let mut waiting: Flows = waiting.try_into().expect("hash");
        let says = |user: &UdpSocket| user.send_to(b"hello", v4(PORT)).expect("send");
        // So often that every place of the tenant's has a note of this user, whose flow was over each time.
        let user = UdpSocket::bind(v4(0)).expect("bind");
        for _ in 0..WAITING_EACH {
            says(&user);
            let begun = waiting.keys().next().expect("it begins").expect("read");
            waiting.remove(&begun).expect("it is over");
        }
        says(&user);
        let others = [(); 10].map(|()| UdpSocket::bind(v4(0)).expect("bind"));
        for other in &others {
            says(other);
        }
        let waits: Vec<u16> = waiting
            .keys()
            .map(|key| key.expect("read").remote_port)
            .collect();
        let own = user.local_addr().expect("bound").port();
        assert!(waits.contains(&own), "it waits for its answer: {waits:?}");
        assert_eq!(waits.len(), 1 + others.len());
    });
}
