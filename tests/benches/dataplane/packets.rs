//! The packets: a few fixed ones, by class.

use std::net::IpAddr;

use totoro_ebpf::abi::{TCP, UDP};
use totoro_ebpf::packet::{ACK, PSH, SYN};

/// frps's own port; in the pool's bitmap as the daemon sets it.
pub(crate) const FRPS: u16 = 1_022;
/// A pool port that nobody has leased.
pub(crate) const FREE: u16 = 1_023;
/// The first leased port; of one lease, the only one.
pub(crate) const LEASED: u16 = 1_024;
/// A port that is not in the pool.
pub(crate) const OTHERS: u16 = 443;
/// The users' port.
pub(crate) const FROM: u16 = 20_000;

/// A user whose source the driver makes too; its odd neighbours are banned where there are bans.
pub(crate) const USER4: [u8; 4] = [10, 64, 0, 0];
const NODE4: [u8; 4] = [192, 0, 2, 1];

/// The node's addresses, then the users'.
pub(crate) fn nodes() -> [IpAddr; 2] {
    [NODE4.into(), ip6("2001:db8::1")]
}

pub(crate) fn users() -> [IpAddr; 2] {
    [USER4.into(), ip6("2001:db8:1::7")]
}

fn ip6(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The family's place in [`nodes`] and [`users`].
pub(crate) const V4: usize = 0;
pub(crate) const V6: usize = 1;

/// A frame from a user to the node: TCP with `flags`, or UDP. 64 bytes of data unless it opens.
pub(crate) fn frame(family: usize, proto: u8, flags: u8, to: u16) -> Vec<u8> {
    let data = if flags & SYN == 0 { 64 } else { 0 };
    let header: u16 = if proto == TCP { 20 } else { 8 };
    let mut bytes = vec![2; 12];
    match (users()[family], nodes()[family]) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend((20 + header + data).to_be_bytes());
            bytes.extend([0, 1, 0x40, 0, 64, proto, 0, 0]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((header + data).to_be_bytes());
            bytes.extend([proto, 64]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        _ => unreachable!("one family each"),
    }
    bytes.extend(FROM.to_be_bytes());
    bytes.extend(to.to_be_bytes());
    match proto {
        TCP => bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]),
        _ => {
            bytes.extend((8 + data).to_be_bytes());
            bytes.extend([0, 0]);
        }
    }
    bytes.extend(vec![0; usize::from(data)]);
    bytes
}

/// The same frame the other way, as an answer to it.
pub(crate) fn answer(mut frame: Vec<u8>) -> Vec<u8> {
    let (addresses, size) = match frame[12..14] {
        [8, 0] => (26, 4),
        _ => (22, 16),
    };
    let ports = addresses + 2 * size;
    frame[addresses..ports].rotate_left(size);
    frame[ports..ports + 4].rotate_left(2);
    frame
}

/// An IPv4 frame from another user.
pub(crate) fn sent_by(user: [u8; 4], mut frame: Vec<u8>) -> Vec<u8> {
    frame[26..30].copy_from_slice(&user);
    frame
}

/// A segment of a connection that is there.
pub(crate) fn segment(family: usize, to: u16) -> Vec<u8> {
    frame(family, TCP, ACK | PSH, to)
}

/// A SYN.
pub(crate) fn syn(family: usize, to: u16) -> Vec<u8> {
    frame(family, TCP, SYN, to)
}

/// A datagram.
pub(crate) fn datagram(family: usize, to: u16) -> Vec<u8> {
    frame(family, UDP, 0, to)
}

/// An ARP request: neither IPv4 nor IPv6.
pub(crate) fn arp() -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 2, 2, 2, 2, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.resize(60, 0);
    bytes
}
