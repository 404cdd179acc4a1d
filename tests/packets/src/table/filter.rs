//! What the filter can read, and what opens a flow.

use totoro_api::Reason;
use totoro_ebpf::abi::{self, FLOW_ANSWERED, FLOW_NEW, TCP, UDP};
use totoro_model::Span;

use super::*;
use crate::build::{
    AUTHENTICATION, Extension, FRAGMENT, Packet, ROUTING, flag, icmp_error, packet,
};

fn syn(to: IpAddr, port: u16) -> Packet {
    packet(if to.is_ipv6() { USER6 } else { USER4 }, to, TCP, port)
}

fn udp(to: IpAddr, port: u16) -> Packet {
    packet(if to.is_ipv6() { USER6 } else { USER4 }, to, UDP, port)
}

fn behind(kinds: &[u8]) -> Packet {
    syn(NODE6, FREE).with(|p| p.extensions = kinds.iter().copied().map(Extension::new).collect())
}

/// Headers: what is followed to a port that nobody has is dropped.
pub(super) fn headers(now: u64) -> Section {
    let drops = |what, packet: Packet| frame(what, &packet, now).refused(0, Reason::NoLease);
    let passes = |what, packet: Packet| frame(what, &packet, now);
    let rows = vec![
        drops("TCP over IPv4", syn(NODE4, FREE)),
        drops("TCP over IPv6", syn(NODE6, FREE)),
        drops("UDP over IPv4", udp(NODE4, FREE)),
        drops("UDP over IPv6", udp(NODE6, FREE)),
        drops(
            "one VLAN tag",
            syn(NODE4, FREE).with(|p| p.tags = vec![0x8100]),
        ),
        drops(
            "QinQ",
            syn(NODE6, FREE).with(|p| p.tags = vec![0x88a8, 0x8100]),
        ),
        passes(
            "three tags: the stack decides",
            syn(NODE4, FREE).with(|p| p.tags = vec![0x8100; 3]),
        ),
        passes(
            "another kind of tag",
            syn(NODE4, FREE).with(|p| p.tags = vec![0x9100]),
        ),
        drops(
            "IPv4 options, all of them",
            syn(NODE4, FREE).with(|p| p.options = vec![1; 40]),
        ),
        drops(
            "an IPv4 first fragment",
            udp(NODE4, FREE).with(|p| p.fragment = 0x2000),
        ),
        drops(
            "\"don't fragment\" is none",
            udp(NODE4, FREE).with(|p| p.fragment = 0x4000),
        ),
        passes(
            "an IPv4 later fragment has no ports",
            udp(NODE4, FREE).with(|p| p.fragment = 9),
        ),
        passes(
            "a last fragment eight bytes behind",
            udp(NODE4, FREE).with(|p| p.fragment = 1),
        ),
        drops("hop-by-hop and destination options", behind(&[0, 60])),
        drops("routing and mobility headers", behind(&[ROUTING, 135])),
        passes(
            "a way with nodes to visit: the stack forwards it, or complains",
            behind(&[ROUTING]).with(|p| p.extensions[0].left = 1),
        ),
        drops(
            "an authentication header, which counts in fours",
            behind(&[AUTHENTICATION]).with(|p| p.extensions[0].units = 4),
        ),
        drops("six extension headers", behind(&[60; 6])),
        passes("seven: the stack decides", behind(&[60; 7])),
        drops(
            "headers of 1,000 bytes",
            behind(&[60, 60, 60]).with(|p| {
                for (extension, units) in p.extensions.iter_mut().zip([59, 30, 26]) {
                    extension.units = units;
                }
            }),
        ),
        passes(
            "headers beyond 1,024 bytes: the stack decides",
            behind(&[60, 60, 60]).with(|p| p.extensions.iter_mut().for_each(|e| e.units = 42)),
        ),
        passes("an extension header that is not followed", behind(&[139])),
        passes("no next header", behind(&[59])),
        drops("an IPv6 atomic fragment", behind(&[FRAGMENT])),
        drops(
            "an IPv6 first fragment",
            udp(NODE6, FREE).with(|p| {
                p.extensions = vec![Extension::new(FRAGMENT)];
                p.fragment = 1;
            }),
        ),
        passes(
            "an IPv6 later fragment has no ports",
            udp(NODE6, FREE).with(|p| {
                p.extensions = vec![Extension::new(FRAGMENT)];
                p.fragment = 9 << 3;
            }),
        ),
        passes(
            "one that is eight bytes behind",
            udp(NODE6, FREE).with(|p| {
                p.extensions = vec![Extension::new(FRAGMENT)];
                p.fragment = 1 << 3;
            }),
        ),
        passes(
            "cut within the TCP header",
            syn(NODE4, FREE).with(|p| p.cut_to = Some(14 + 20 + 13)),
        ),
        drops(
            "cut after the flags",
            syn(NODE4, FREE).with(|p| p.cut_to = Some(14 + 20 + 14)),
        ),
        drops(
            "a datagram cut after its ports",
            udp(NODE4, FREE).with(|p| p.cut_to = Some(38)),
        ),
        drops(
            "wrong checksum: the stack's business",
            syn(NODE4, FREE).with(|p| p.checksum = Some(0x1234)),
        ),
        drops(
            "lengths that lie",
            udp(NODE4, FREE).with(|p| (p.ip_length, p.udp_length) = (Some(1), Some(65_535))),
        ),
        passes("ICMP", packet(USER4, NODE4, 1, 0)),
        passes(
            "an ICMP error about a pool port: for the socket that it quotes",
            icmp_error(
                USER4,
                NODE4,
                &packet(NODE4, USER4, UDP, 40_000).with(|p| p.ports.0 = FREE),
            ),
        ),
        passes(
            "the same over IPv6",
            icmp_error(
                USER6,
                NODE6,
                &packet(NODE6, USER6, TCP, 40_000).with(|p| p.ports.0 = FREE),
            ),
        ),
        passes(
            "ESP",
            packet(USER6, NODE6, 50, 0).with(|p| p.payload = vec![78, 33, 78, 33]),
        ),
    ];
    Section {
        title: "Headers",
        about: "XDP, and TC ingress where XDP is off: one verdict. What can't be followed to the ports \
                of TCP or UDP passes, and the socket lookup decides.",
        rows,
    }
}

/// What opens a flow to whom.
pub(super) fn openings(now: u64) -> Section {
    let row = |what, packet: Packet| frame(what, &packet, now);
    let drops = |what, packet: Packet| frame(what, &packet, now).refused(0, Reason::NoLease);
    let flags = |flags| syn(NODE4, FREE).with(|p| p.flags = flags);
    let asked = |ago: u64| {
        move |world: &mut World, now: u64| {
            let key = abi::OutboundKey {
                remote: addr(USER4),
                local: addr(NODE4),
                remote_port: 53,
                local_port: FREE,
                pad: 0,
            };
            world
                .outbound
                .insert(key, Span::exactly(now.saturating_sub(ago)));
        }
    };
    let answer = udp(NODE4, FREE).with(|p| p.ports.0 = 53);
    let mut rows = vec![
        row("SYN to a leased port", syn(NODE4, LEASED)),
        row("the same over IPv6", syn(NODE6, LEASED)),
        row("datagram to a leased port", udp(NODE4, LEASED)),
        drops("SYN to a pool port without a lease", syn(NODE4, FREE)),
        drops("SYN with ECN's two flags", flags(flag::SYN | 0xc0)),
        drops("SYN+FIN opens too", flags(flag::SYN | flag::FIN)),
        row("SYN+ACK is an answer", flags(flag::SYN | flag::ACK)),
        row("ACK", flags(flag::ACK)),
        row("RST", flags(flag::RST)),
        row("FIN+ACK", flags(flag::FIN | flag::ACK)),
        row("no flags", flags(0)),
        row("SYN outside of the pool", syn(NODE4, SSH)),
        row("datagram outside of the pool", udp(NODE4, 53)),
        row("frps's own port is TCP's alone", udp(NODE4, FRPS)),
        row("SYN to frps's own port", syn(NODE4, FRPS)),
        row(
            "SYN to a pool port's number that is forwarded",
            packet(USER4, ROUTED, TCP, FREE),
        ),
        row(
            "a datagram that is forwarded",
            packet(USER4, ROUTED, UDP, FREE),
        ),
        row(
            "a port that is leased for the other protocol alone",
            udp(NODE4, LEASED),
        )
        .given(|world, _| {
            world.ports.remove(&key(UDP, LEASED));
        })
        .refused(0, Reason::NoLease),
        row("the answer to a datagram from a pool port", answer.clone()).given(asked(60 * S)),
        row(
            "from another port than asked",
            udp(NODE4, FREE).with(|p| p.ports.0 = 54),
        )
        .given(asked(0))
        .refused(0, Reason::NoLease),
        row(
            "a SYN answers nothing",
            syn(NODE4, FREE).with(|p| p.ports.0 = 53),
        )
        .given(asked(0))
        .refused(0, Reason::NoLease),
        row(
            "the lease of an ended session: the socket lookup refuses it",
            syn(NODE4, LEASED),
        )
        .given(|world, now| {
            let lease = abi::Lease {
                expires_ns: now.saturating_sub(S).max(1),
                ..lease(1)
            };
            world.ports.insert(key(TCP, LEASED), lease);
        }),
        row(
            "before the daemon has written a configuration",
            syn(NODE4, FREE),
        )
        .given(|world, _| world.config = abi::Config::default()),
        row("the same refusal for the second time", syn(NODE4, FREE))
            .given(counted(1))
            .refused(0, Reason::NoLease),
        row("the third is not told", syn(NODE4, FREE))
            .given(counted(2))
            .refused(0, Reason::NoLease)
            .untold(),
        row("the fourth is again", syn(NODE4, FREE))
            .given(counted(3))
            .refused(0, Reason::NoLease),
        row("a flow that was answered", udp(NODE4, LEASED)).given(|world, now| {
            let known = flow(USER4, 40_000, LEASED);
            world.flows.insert(known, flow_in(FLOW_ANSWERED, now));
        }),
        row(
            "a flow that nobody has answered yet, above the budget",
            udp(NODE4, SMALL),
        )
        .given(|world, now| {
            let begun = flow(USER4, 40_000, SMALL);
            world.candidates.insert(begun, flow_in(FLOW_NEW, now));
            super::floods::spend(world, now);
        }),
    ];
    // A machine that has just started was asked nothing so long ago.
    if now > 200 * S {
        let late = row("asked three minutes ago", answer)
            .given(asked(180 * S))
            .refused(0, Reason::NoLease);
        rows.push(late);
    }
    Section {
        title: "Openings",
        about: "XDP and TC ingress. A SYN opens a connection; any datagram may open a flow.",
        rows,
    }
}

/// So many refusals of nobody's before.
fn counted(times: u64) -> impl Fn(&mut World, u64) {
    move |world, now| {
        let key = abi::ReasonKey {
            tenant: 0,
            reason: Reason::NoLease.number(),
        };
        let at = Span::exactly(now);
        world.reasons.insert(key, Timed { is: times, at });
    }
}
