//! The shield's table: the documentation of what is dropped before the stack.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use totoro_api::Reason;
use totoro_ebpf::abi::{TCP, UDP};
use totoro_ebpf::packet::{ACK, FIN, RST, SYN};

use crate::frames::{Packet, packet};

pub(crate) const NODE4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const NODE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
pub(crate) const USER4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub(crate) const USER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7));
pub(crate) const BANNED4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
pub(crate) const BANNED6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 9));
pub(crate) const ROUTED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));

pub(crate) const LEASED: u16 = 20_000;
pub(crate) const FREE: u16 = 20_001;
pub(crate) const SMALL: u16 = 20_002;
pub(crate) const SSH: u16 = 22;
pub(crate) const FRPS: u16 = 7_000;
pub(crate) const TENANT: u32 = 3;

const PASS: Option<(u32, Reason)> = None;
const NO_LEASE: Option<(u32, Reason)> = Some((0, Reason::NoLease));

/// Description, packet, and who is counted why; `None` = passes.
pub(crate) type Row = (&'static str, Packet, Option<(u32, Reason)>);

/// The rows.
pub(crate) fn table() -> Vec<Row> {
    let syn = |to, port| packet(if NODE6 == to { USER6 } else { USER4 }, to, TCP, port);
    let udp = |to, port| packet(if NODE6 == to { USER6 } else { USER4 }, to, UDP, port);
    vec![
        ("SYN to a leased port", syn(NODE4, LEASED), PASS),
        ("SYN to a leased port, IPv6", syn(NODE6, LEASED), PASS),
        (
            "SYN to a pool port without a lease",
            syn(NODE4, FREE),
            NO_LEASE,
        ),
        ("the same over IPv6", syn(NODE6, FREE), NO_LEASE),
        ("SYN to ssh", syn(NODE4, SSH), PASS),
        (
            "SYN+ACK to a pool port: an answer",
            syn(NODE4, FREE).with(|p| p.flags = SYN | ACK),
            PASS,
        ),
        (
            "ACK to a pool port",
            syn(NODE4, FREE).with(|p| p.flags = ACK),
            PASS,
        ),
        (
            "RST to a pool port",
            syn(NODE4, FREE).with(|p| p.flags = RST),
            PASS,
        ),
        (
            "FIN+ACK to a pool port",
            syn(NODE4, FREE).with(|p| p.flags = FIN | ACK),
            PASS,
        ),
        (
            "no flags to a pool port",
            syn(NODE4, FREE).with(|p| p.flags = 0),
            PASS,
        ),
        (
            "SYN+FIN opens too",
            syn(NODE4, FREE).with(|p| p.flags = SYN | FIN),
            NO_LEASE,
        ),
        ("datagram to a leased port", udp(NODE4, LEASED), PASS),
        (
            "datagram to a pool port without a lease",
            udp(NODE4, FREE),
            NO_LEASE,
        ),
        ("the same over IPv6", udp(NODE6, FREE), NO_LEASE),
        ("datagram outside the pool", udp(NODE4, 53), PASS),
        (
            "forwarded SYN to a pool port number",
            packet(USER4, ROUTED, TCP, FREE),
            PASS,
        ),
        (
            "forwarded datagram to a pool port number",
            packet(USER4, ROUTED, UDP, FREE),
            PASS,
        ),
        (
            "banned, leased port",
            packet(BANNED4, NODE4, TCP, LEASED),
            Some((TENANT, Reason::ClientBanned)),
        ),
        (
            "banned by an IPv6 prefix",
            packet(BANNED6, NODE6, TCP, LEASED),
            Some((TENANT, Reason::ClientBanned)),
        ),
        (
            "banned, frps's own port",
            packet(BANNED4, NODE4, TCP, FRPS),
            Some((0, Reason::ClientBanned)),
        ),
        ("not banned, frps's own port", syn(NODE4, FRPS), PASS),
        (
            "banned, ssh: none of our business",
            packet(BANNED4, NODE4, TCP, SSH),
            PASS,
        ),
        (
            "banned, but no opening",
            packet(BANNED4, NODE4, TCP, LEASED).with(|p| p.flags = ACK),
            PASS,
        ),
        (
            "banned, a flow that was answered",
            packet(BANNED4, NODE4, UDP, LEASED).with(|p| p.ports.0 = 40_001),
            PASS,
        ),
        (
            "banned, a new flow",
            packet(BANNED4, NODE4, UDP, LEASED),
            Some((TENANT, Reason::ClientBanned)),
        ),
        (
            "IPv4 options",
            syn(NODE4, FREE).with(|p| p.options = 10),
            NO_LEASE,
        ),
        (
            "one VLAN tag",
            syn(NODE4, FREE).with(|p| p.tags = vec![0x8100]),
            NO_LEASE,
        ),
        (
            "QinQ",
            syn(NODE6, FREE).with(|p| p.tags = vec![0x88a8, 0x8100]),
            NO_LEASE,
        ),
        (
            "three tags: the stack decides",
            syn(NODE4, FREE).with(|p| p.tags = vec![0x8100; 3]),
            PASS,
        ),
        (
            "IPv6 hop-by-hop and destination options",
            syn(NODE6, FREE).with(|p| p.extensions = vec![0, 60]),
            NO_LEASE,
        ),
        (
            "IPv6 first fragment",
            udp(NODE6, FREE).with(|p| p.extensions = vec![44]),
            NO_LEASE,
        ),
        (
            "IPv6 later fragment: the stack decides",
            udp(NODE6, FREE).with(|p| {
                p.extensions = vec![44];
                p.fragment = 9;
            }),
            PASS,
        ),
        (
            "IPv4 first fragment",
            udp(NODE4, FREE).with(|p| p.fragment = 0x2000),
            NO_LEASE,
        ),
        (
            "IPv4 later fragment: the stack decides",
            udp(NODE4, FREE).with(|p| p.fragment = 9),
            PASS,
        ),
        ("ICMP", packet(USER4, NODE4, 1, FREE), PASS),
        ("ESP", packet(USER6, NODE6, 50, FREE), PASS),
        (
            "cut within the TCP header",
            syn(NODE4, FREE).with(|p| p.cut_to = Some(14 + 20 + 13)),
            PASS,
        ),
        (
            "cut after the flags",
            syn(NODE4, FREE).with(|p| p.cut_to = Some(14 + 20 + 14)),
            NO_LEASE,
        ),
        ("within the SYN budget", syn(NODE4, SMALL), PASS),
        (
            "above the SYN budget",
            syn(NODE4, SMALL),
            Some((TENANT, Reason::ConnRate)),
        ),
        ("neighbours of a flooded port", syn(NODE4, LEASED), PASS),
        ("within the budget of new flows", udp(NODE4, SMALL), PASS),
        (
            "above the budget of new flows",
            udp(NODE4, SMALL),
            Some((TENANT, Reason::ConnRate)),
        ),
        (
            "above that budget, but of a flow that nobody has answered yet",
            udp(NODE4, SMALL).with(|p| p.ports.0 = 40_002),
            PASS,
        ),
    ]
}
