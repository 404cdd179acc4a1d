//! Random packets: of every kind that the programs may meet, right and wrong.

use std::net::{IpAddr, Ipv6Addr};

use fastrand::Rng;
use totoro_ebpf::abi::{Addr, TCP, UDP};
use totoro_model::{Lookup, Seen};

use super::{Scene, once_in, one_of};
use crate::build::{AUTHENTICATION, Extension, FRAGMENT, Packet, flag, icmp_error, packet};

/// A VLAN tag's ethertypes, and some that are none.
const TAGS: [u16; 6] = [0x8100, 0x8100, 0x88a8, 0x88a8, 0x9100, 0x8847];
/// Extension headers, and headers that are none that is followed.
const EXTENSIONS: [u8; 10] = [
    0,
    43,
    60,
    60,
    135,
    FRAGMENT,
    FRAGMENT,
    AUTHENTICATION,
    139,
    59,
];
/// Protocols that have no ports of ours.
const OTHERS: [u8; 8] = [1, 2, 4, 47, 50, 58, 132, 255];
/// frpc's request for a websocket, up to its headers.
const REQUEST: &str = "GET /~!frp HTTP/1.1\r\nHost: node.example:7000\r\n";
/// The shortest and the longest frame that is made.
const SHORTEST: usize = 14;
const LONGEST: usize = 3_000;

/// Makes packets for a world, each in place of the one before.
pub struct Packets {
    bytes: Vec<u8>,
}

impl Default for Packets {
    fn default() -> Self {
        Packets {
            bytes: Vec::with_capacity(LONGEST),
        }
    }
}

impl Packets {
    /// The next frame.
    pub fn next(&mut self, dice: &mut Rng, scene: &Scene) -> &[u8] {
        let built = built(dice, scene);
        built.write(&mut self.bytes);
        match dice.u8(..16) {
            // Cut at any byte.
            0..3 => {
                let length = dice.usize(..=self.bytes.len());
                self.bytes.truncate(length);
            }
            // A bit or a byte that is wrong.
            3 | 4 => {
                for _ in 0..=dice.usize(..2) {
                    let at = dice.usize(..self.bytes.len().min(120));
                    self.bytes[at] = match dice.bool() {
                        true => self.bytes[at] ^ 1 << dice.u8(..8),
                        false => dice.u8(..),
                    };
                }
            }
            // An Ethernet trailer.
            5 => {
                let length = self.bytes.len() + dice.usize(..60);
                self.bytes.resize(length, dice.u8(..));
            }
            // Nothing but noise behind the ethertype.
            6 if once_in(dice, 16) => {
                for byte in &mut self.bytes[14..] {
                    *byte = dice.u8(..);
                }
            }
            _ => {}
        }
        self.bytes.truncate(LONGEST);
        if self.bytes.len() < SHORTEST {
            self.bytes.resize(SHORTEST, 0);
        }
        &self.bytes
    }

    /// The last frame as the stack would have a socket looked up for it, or a random lookup.
    #[must_use]
    pub fn lookup(&self, dice: &mut Rng, scene: &Scene) -> Lookup {
        let v6 = dice.bool();
        let mut lookup = Lookup {
            v6,
            proto: one_of(dice, &[TCP, UDP]),
            remote: host(dice, scene, v6),
            remote_port: one_of(dice, &scene.far_ports),
            local: receiver(dice, scene, v6),
            port: one_of(dice, &scene.ports),
        };
        if let Some(seen) = Seen::read(&self.bytes).filter(|_| !once_in(dice, 4)) {
            lookup = Lookup {
                // An IPv4 packet's addresses are mapped; an IPv6 one's may be.
                v6: v6 || !is_v4(&seen.from) || !is_v4(&seen.to),
                proto: seen.proto,
                remote: seen.from,
                remote_port: seen.from_port,
                local: seen.to,
                port: seen.to_port,
            };
        }
        lookup
    }
}

fn is_v4(addr: &Addr) -> bool {
    Ipv6Addr::from(*addr).to_ipv4_mapped().is_some()
}

/// One of several addresses, for an IPv4 header one of that family.
fn fitting(dice: &mut Rng, of: &[Addr], v6: bool) -> Addr {
    for _ in 0..16 {
        let addr = one_of(dice, of);
        // Mapped ones are in IPv6 headers too, now and then.
        if is_v4(&addr) != v6 || v6 && once_in(dice, 4) {
            return addr;
        }
    }
    if v6 {
        [0x20; 16]
    } else {
        totoro_ebpf::abi::v4_mapped([203, 0, 113, 5])
    }
}

fn host(dice: &mut Rng, scene: &Scene, v6: bool) -> Addr {
    fitting(dice, &scene.hosts, v6)
}

/// Mostly the node itself.
fn receiver(dice: &mut Rng, scene: &Scene, v6: bool) -> Addr {
    let all = match once_in(dice, 8) {
        true => &scene.receivers[..],
        false => &scene.receivers[..scene.locals],
    };
    fitting(dice, all, v6)
}

fn ip(addr: Addr, v6: bool) -> IpAddr {
    let addr = Ipv6Addr::from(addr);
    match addr.to_ipv4_mapped() {
        Some(addr) if !v6 => addr.into(),
        _ => addr.into(),
    }
}

fn built(dice: &mut Rng, scene: &Scene) -> Packet {
    let proto = match dice.u8(..20) {
        0..10 => TCP,
        10..17 => UDP,
        17 => return error(dice, scene),
        _ => one_of(dice, &OTHERS),
    };
    plain(dice, scene, proto).with(|p| {
        wrap(dice, p);
        match proto {
            TCP => segment(dice, scene, p),
            UDP => datagram(dice, p),
            _ => p.payload = vec![dice.u8(..); dice.usize(..40)],
        }
        if once_in(dice, 16) {
            p.ip_length = Some(dice.u16(..));
        }
        if once_in(dice, 16) {
            p.checksum = Some(dice.u16(..));
        }
    })
}

/// Addresses and ports.
fn plain(dice: &mut Rng, scene: &Scene, proto: u8) -> Packet {
    let v6 = scene.receivers[..scene.locals]
        .iter()
        .any(|addr| !is_v4(addr))
        && dice.bool();
    let from = ip(host(dice, scene, v6), v6);
    let to = ip(receiver(dice, scene, v6), v6);
    let mut made = packet(from, to, proto, one_of(dice, &scene.ports));
    made.ports.0 = one_of(dice, &scene.far_ports);
    // What leaves: answers, and questions from pool-numbered ports.
    if once_in(dice, 8) {
        std::mem::swap(&mut made.from, &mut made.to);
        made.ports = (made.ports.1, made.ports.0);
    }
    made
}

/// Tags, options, extension headers, fragments.
fn wrap(dice: &mut Rng, p: &mut Packet) {
    if once_in(dice, 4) {
        p.tags = (0..=dice.usize(..3)).map(|_| one_of(dice, &TAGS)).collect();
    }
    if p.to.is_ipv4() {
        if once_in(dice, 4) {
            p.options = vec![1; 4 * dice.usize(..=10)];
        }
        if once_in(dice, 8) {
            p.fragment = one_of(dice, &[0x2000, 0x4000, 0x2001, 1, 0x1fff, 0x8000, 0x2008]);
        }
        return;
    }
    if once_in(dice, 3) {
        let kinds = (0..dice.usize(1..9)).map(|_| one_of(dice, &EXTENSIONS));
        let kinds: Vec<u8> = kinds.collect();
        let long = once_in(dice, 4);
        p.extensions = (kinds.into_iter())
            .map(|kind| Extension {
                kind,
                units: match long {
                    true => dice.u8(..40),
                    false => dice.u8(..3),
                },
                left: one_of(dice, &[0, 0, 0, 1, 4]),
            })
            .collect();
        // More fragments, reserved bits, or an offset.
        p.fragment = one_of(dice, &[0, 0, 1, 6, 8, 0xfff8, 9]);
    }
}

fn segment(dice: &mut Rng, scene: &Scene, p: &mut Packet) {
    p.flags = match dice.u8(..4) {
        0 | 1 => flag::SYN,
        2 => one_of(
            dice,
            &[flag::ACK, flag::ACK | flag::PSH, flag::SYN | flag::ACK],
        ),
        _ => dice.u8(..),
    };
    if once_in(dice, 3) {
        p.offset = dice.u8(..16);
    }
    if p.ports.1 == scene.frps && !once_in(dice, 4) {
        p.flags = flag::ACK | flag::PSH;
        p.offset = p.offset.max(5);
        // Mostly on a connection that frps has.
        if !once_in(dice, 4)
            && let Some(&(remote, port)) = dice.choice(&scene.greeters)
            && is_v4(&remote) == p.to.is_ipv4()
        {
            p.from = ip(remote, !p.to.is_ipv4());
            p.ports.0 = port;
        }
        greet(dice, p);
    } else if once_in(dice, 4) {
        p.payload = vec![dice.u8(..); dice.usize(..1_200)];
    }
}

fn datagram(dice: &mut Rng, p: &mut Packet) {
    p.payload = vec![dice.u8(..); dice.usize(..64)];
    if once_in(dice, 8) {
        p.udp_length = Some(dice.u16(..));
    }
}

/// A websocket's request, as frpc makes it or not quite.
fn greet(dice: &mut Rng, p: &mut Packet) {
    p.payload = REQUEST.as_bytes().to_vec();
    let line = dice.usize(..=p.payload.len());
    match dice.u8(..8) {
        0 => p.payload[line.min(9)] ^= 0x20,
        1 => p
            .payload
            .extend(format!("X: {}\r\n", "y".repeat(dice.usize(..1_000))).bytes()),
        2 => p.payload.extend(b"\r\n"),
        _ => {}
    }
    // Mostly right.
    let wrong = |dice: &mut Rng| once_in(dice, 4);
    let name = match wrong(dice) {
        true => one_of(dice, &["origin", "oRIGIN", "Origins", "X-Origin", "Origin"]),
        false => "Origin",
    };
    let origin = match wrong(dice) {
        true => one_of(
            dice,
            &[
                "http://[2001:db8::1]:7000",
                "http://a.io:7000",
                "http://a b.example:7000",
                "http://a.b:7000",
                "http://\u{e9}.example:7000",
            ],
        ),
        false => "http://node.example:7000",
    };
    let space = match wrong(dice) {
        true => one_of(dice, &["", "\t", "  "]),
        false => " ",
    };
    let end = match wrong(dice) {
        true => one_of(dice, &["\n\n", "\r\n", "\r", ""]),
        false => "\r\n\r\n",
    };
    p.payload
        .extend(format!("{name}:{space}{origin}{end}").bytes());
}

/// An ICMP error that quotes a packet with a port of the pool.
fn error(dice: &mut Rng, scene: &Scene) -> Packet {
    let inner = one_of(dice, &[TCP, UDP]);
    let mut quoted = plain(dice, scene, inner);
    wrap(dice, &mut quoted);
    quoted.tags.clear();
    icmp_error(quoted.to, quoted.from, &quoted).with(|p| wrap(dice, p))
}
