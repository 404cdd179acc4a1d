//! Packets whose headers don't lie in one piece: below TC nothing of them can be read without a call, and
//! they are judged like any other.

use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use totoro_api::Reason;
use totoro_ebpf::abi::{TCP, UDP};
use totoro_node::kernel::XdpMode;
use totoro_packets::build::packet;

use crate::flood::{NOTHING, Tap, Through};
use crate::sockets::five;
use crate::support::{self, Node, ip, refused};
use crate::wire::{NODE_MAC, NODE4, NODE6, USER4, USER6, link_up};

/// A pool port without a lease, one that [`Tap`] looks at.
const CLOSED: u16 = 20_002;
/// One with a lease, where nobody listens: the stack refuses.
const LEASED: u16 = 20_003;
/// A packet socket lays down in one piece what is shorter than a page.
const LONG: usize = 6_000;
/// Of an Ethernet header.
const ETHERNET: u16 = 14;

/// Sends a frame from the user's machine, so that it arrives with no more than its Ethernet header in one
/// piece; what it has beyond its packet's own length is padding.
fn send(mut frame: Vec<u8>) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).expect("packet socket");
    let on: libc::c_int = 1;
    // SAFETY: an integer that lives through the call, with its length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    frame.resize(LONG, 0);
    frame[..6].copy_from_slice(&NODE_MAC.split(':').map(hex).collect::<Vec<u8>>());
    // `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h): flags, GSO type, and then how much is to
    // lie in one piece.
    let mut whole = vec![0; 10];
    whole[2..4].copy_from_slice(&ETHERNET.to_ne_bytes());
    whole.extend(&frame);
    // SAFETY: integers and bytes, for which zeros are a value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as libc::sa_family_t;
    to.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
    to.sll_ifindex = nix::net::if_::if_nametoindex("peer0").expect("index") as libc::c_int;
    // SAFETY: bytes and an address that live through the call, with their lengths.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            whole.as_ptr().cast(),
            whole.len(),
            0,
            (&raw const to).cast(),
            size_of_val(&to) as libc::socklen_t,
        )
    };
    assert_eq!(
        usize::try_from(sent),
        Ok(whole.len()),
        "{}",
        std::io::Error::last_os_error()
    );
}

fn hex(byte: &str) -> u8 {
    u8::from_str_radix(byte, 16).expect("a byte of an address")
}

#[test]
fn headers_in_pieces_are_judged_like_any_others() {
    let Some(node) = Node::new("pieces") else {
        return;
    };
    let make = || {
        let peer = link_up();
        ip(&["link", "set", "us0", "mtu", "9000"]);
        peer.run(|| ip(&["link", "set", "peer0", "mtu", "9000"]));
        peer
    };
    let node = node.on(&["us0"], XdpMode::Off);
    node.run_after(make, |kernel, peer| {
        kernel.put_tenant(1, &five()).expect("tenant");
        kernel
            .put_lease(support::key(TCP, LEASED), &support::lease(1, 1))
            .expect("lease");
        let reset = Through {
            resets: 1,
            ..NOTHING
        };
        // What, the packet, how many are refused, what the stack says.
        let table = [
            (
                "a SYN to no lease",
                packet(USER4, NODE4, TCP, CLOSED),
                1,
                NOTHING,
            ),
            (
                "the same, IPv6",
                packet(USER6, NODE6, TCP, CLOSED),
                1,
                NOTHING,
            ),
            (
                "a datagram to no lease",
                packet(USER4, NODE4, UDP, CLOSED),
                1,
                NOTHING,
            ),
            (
                "a SYN to a lease",
                packet(USER4, NODE4, TCP, LEASED),
                0,
                reset,
            ),
        ];
        for (what, packet, wanted, says) in table {
            let tap = Tap::start();
            let before = refused(&kernel, Reason::NoLease);
            let frame = packet.bytes();
            peer.run(move || send(frame));
            // What came to the tap is of no matter: it stands before TC.
            let seen = Through {
                syns: 0,
                ..tap.stop()
            };
            assert_eq!(refused(&kernel, Reason::NoLease) - before, wanted, "{what}");
            assert_eq!(seen, says, "{what}");
        }
    });
}
