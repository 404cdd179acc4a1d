//! The parser's table: description, packet, what is read.

extern crate std;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::abi::{TCP, UDP, v4_mapped};

fn eth(kind: u16, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0u8; 12];
    packet.extend(kind.to_be_bytes());
    packet.extend(rest);
    packet
}

fn v4(proto: u8, options: usize, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x40 | (5 + options as u8), 0, 0, 0, 0, 0];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, proto, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    packet.extend(vec![1u8; options * 4]);
    packet.extend(payload);
    packet
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet.extend([0xaa; 16]);
    packet.extend([0xbb; 16]);
    packet.extend(payload);
    packet
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut segment = vec![0x30, 0x39, 0x4e, 0x20]; // 12345 -> 20000
    segment.extend([0; 9]);
    segment.extend([flags, 0, 0, 0, 0, 0, 0]);
    segment
}

fn udp() -> Vec<u8> {
    vec![0x30, 0x39, 0x4e, 0x20, 0, 8, 0, 0]
}

fn chain(headers: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, (_, header)) in headers.iter().enumerate() {
        let next = headers.get(index + 1).map_or(last, |(kind, _)| *kind);
        let mut header = header.clone();
        header[0] = next;
        bytes.extend(header);
    }
    bytes.extend(payload);
    v6(headers[0].0, &bytes)
}

/// Description, packet, and the protocol, transport offset and flags that are read.
type Row = (&'static str, Vec<u8>, Option<(u8, usize, u8)>);

#[test]
fn table() {
    let hop = (0u8, vec![0u8; 8]);
    let long = (60u8, {
        let mut h = vec![0u8; 24];
        h[1] = 2;
        h
    });
    let auth = (51u8, {
        let mut h = vec![0u8; 24];
        h[1] = 4;
        h
    });
    let first = (44u8, vec![0, 0, 0, 1, 0, 0, 0, 9]);
    let later = (44u8, vec![0, 0, 0, 8, 0, 0, 0, 9]);
    let tagged = |kind: u16, rest: Vec<u8>| {
        let mut tag = vec![0, 7];
        tag.extend(kind.to_be_bytes());
        tag.extend(rest);
        tag
    };
    let rows: Vec<Row> = vec![
        (
            "IPv4 TCP SYN",
            eth(0x0800, &v4(TCP, 0, 0, &tcp(SYN))),
            Some((TCP, 34, SYN)),
        ),
        (
            "IPv4 with options",
            eth(0x0800, &v4(TCP, 10, 0, &tcp(SYN))),
            Some((TCP, 74, SYN)),
        ),
        (
            "IPv4 UDP",
            eth(0x0800, &v4(UDP, 0, 0, &udp())),
            Some((UDP, 34, 0)),
        ),
        (
            "IPv4 first fragment",
            eth(0x0800, &v4(UDP, 0, 0x2000, &udp())),
            Some((UDP, 34, 0)),
        ),
        (
            "IPv4 later fragment",
            eth(0x0800, &v4(UDP, 0, 1, &udp())),
            None,
        ),
        ("IPv4 ICMP", eth(0x0800, &v4(1, 0, 0, &udp())), None),
        (
            "IPv4 header length 4 words",
            eth(0x0800, &{
                let mut p = v4(TCP, 0, 0, &tcp(SYN));
                p[0] = 0x44;
                p
            }),
            None,
        ),
        (
            "version 6 under IPv4's ethertype",
            eth(0x0800, &v6(TCP, &tcp(SYN))),
            None,
        ),
        (
            "one VLAN tag",
            eth(0x8100, &tagged(0x0800, v4(TCP, 0, 0, &tcp(SYN)))),
            Some((TCP, 38, SYN)),
        ),
        (
            "QinQ",
            eth(0x88a8, &tagged(0x8100, tagged(0x86dd, v6(UDP, &udp())))),
            Some((UDP, 62, 0)),
        ),
        (
            "three tags",
            eth(
                0x8100,
                &tagged(
                    0x8100,
                    tagged(0x8100, tagged(0x0800, v4(TCP, 0, 0, &tcp(SYN)))),
                ),
            ),
            None,
        ),
        ("ARP", eth(0x0806, &[0; 28]), None),
        (
            "IPv6 TCP",
            eth(0x86dd, &v6(TCP, &tcp(SYN | ACK))),
            Some((TCP, 54, SYN | ACK)),
        ),
        (
            "IPv6 hop-by-hop",
            eth(0x86dd, &chain(std::slice::from_ref(&hop), TCP, &tcp(SYN))),
            Some((TCP, 62, SYN)),
        ),
        (
            "IPv6 hop-by-hop, destination, AH",
            eth(0x86dd, &chain(&[hop.clone(), long, auth], UDP, &udp())),
            Some((UDP, 110, 0)),
        ),
        (
            "IPv6 first fragment",
            eth(0x86dd, &chain(&[first], UDP, &udp())),
            Some((UDP, 62, 0)),
        ),
        (
            "IPv6 later fragment",
            eth(0x86dd, &chain(&[later], UDP, &udp())),
            None,
        ),
        (
            "IPv6 six extensions",
            eth(0x86dd, &chain(&vec![hop.clone(); 6], TCP, &tcp(SYN))),
            Some((TCP, 102, SYN)),
        ),
        (
            "IPv6 seven extensions",
            eth(0x86dd, &chain(&vec![hop.clone(); 7], TCP, &tcp(SYN))),
            None,
        ),
        ("IPv6 ESP", eth(0x86dd, &v6(50, &tcp(SYN))), None),
        (
            "IPv6 extension beyond the packet",
            eth(0x86dd, &v6(0, &[6, 255, 0, 0, 0, 0, 0, 0])),
            None,
        ),
        ("runt", vec![0; 13], None),
    ];
    for (what, packet, read) in rows {
        let headers = Headers::from_ethernet(&packet.as_slice());
        assert_eq!(
            headers.map(|h| (h.proto, h.transport, h.flags)),
            read,
            "{what}"
        );
        if let Some(headers) = headers {
            assert_eq!(
                (headers.source_port, headers.destination_port),
                (12345, 20000),
                "{what}"
            );
            let (source, destination) = headers.addresses(&packet.as_slice()).unwrap();
            let sides = headers.sides(&packet.as_slice()).unwrap();
            assert_eq!(
                (sides.remote, sides.local),
                (words(&source), words(&destination))
            );
            match headers.family {
                Family::V4 => assert_eq!(
                    (source, destination),
                    (v4_mapped([192, 0, 2, 1]), v4_mapped([192, 0, 2, 2]))
                ),
                Family::V6 => assert_eq!((source, destination), ([0xaa; 16], [0xbb; 16])),
            }
        }
        // Truncated anywhere, a packet is followed to the same ports or not at all.
        for len in 0..packet.len() {
            if let Some(cut) = Headers::from_ethernet(&&packet[..len]) {
                assert_eq!(
                    Some((cut.proto, cut.transport, cut.flags)),
                    read,
                    "{what}, {len} bytes"
                );
            }
        }
    }
}

#[test]
fn opening_is_syn_without_ack() {
    for (flags, opens) in [
        (SYN, true),
        (SYN | FIN, true),
        (SYN | PSH, true),
        (SYN | ACK, false),
        (ACK, false),
        (RST, false),
        (FIN | ACK, false),
        (0, false),
    ] {
        let packet = eth(0x0800, &v4(TCP, 0, 0, &tcp(flags)));
        let headers = Headers::from_ethernet(&packet.as_slice()).unwrap();
        assert_eq!(headers.is_tcp_open(), opens, "flags {flags:#04x}");
    }
}
