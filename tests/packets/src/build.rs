//! Frames, built from their parts.

use std::net::IpAddr;

use totoro_ebpf::abi::{TCP, UDP};

/// TCP flags.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
}

/// IPv6's fragment header.
pub const FRAGMENT: u8 = 44;
/// IPv6's authentication header, whose length is counted in other units.
pub const AUTHENTICATION: u8 = 51;
/// ICMP of either family.
pub const ICMP: u8 = 1;
/// The same for IPv6.
pub const ICMP6: u8 = 58;

/// An IPv6 header that says which way to go.
pub const ROUTING: u8 = 43;

/// An IPv6 extension header.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Its number (IANA).
    pub kind: u8,
    /// How many units it has beyond the least, of eight bytes (authentication: of four).
    pub units: u8,
    /// Of a routing header: how many nodes are still to be visited.
    pub left: u8,
}

impl Extension {
    /// The shortest of a kind; of a way that has been gone.
    #[must_use]
    pub const fn new(kind: u8) -> Self {
        Extension {
            kind,
            units: 0,
            left: 0,
        }
    }
}

/// A frame, from the outside in. Lengths and checksums are right where nothing else is said.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Ethertypes of VLAN tags.
    pub tags: Vec<u16>,
    /// The sender.
    pub from: IpAddr,
    /// The receiver, of the same family.
    pub to: IpAddr,
    /// IPv4 options, a multiple of four bytes, 40 at most.
    pub options: Vec<u8>,
    /// IPv6 extension headers.
    pub extensions: Vec<Extension>,
    /// IPv4: flags and offset; IPv6: what its fragment headers have in that place.
    pub fragment: u16,
    /// The protocol's number (IANA).
    pub proto: u8,
    /// The sender's and the receiver's port, for TCP and UDP.
    pub ports: (u16, u16),
    /// TCP's flags.
    pub flags: u8,
    /// How long the TCP header calls itself, in words of four bytes.
    pub offset: u8,
    /// What follows the TCP or UDP header, or the IP header of another protocol.
    pub payload: Vec<u8>,
    /// A length to be said in the IP header in place of the right one.
    pub ip_length: Option<u16>,
    /// The same for UDP.
    pub udp_length: Option<u16>,
    /// A checksum of TCP or UDP in place of the right one.
    pub checksum: Option<u16>,
    /// Bytes after which the frame is cut.
    pub cut_to: Option<usize>,
}

/// A SYN, or a datagram of four bytes, without anything special.
#[must_use]
pub fn packet(from: IpAddr, to: IpAddr, proto: u8, port: u16) -> Packet {
    let payload = if proto == UDP {
        vec![1, 2, 3, 4]
    } else {
        vec![]
    };
    Packet {
        tags: vec![],
        from,
        to,
        options: vec![],
        extensions: vec![],
        fragment: 0,
        proto,
        ports: (40_000, port),
        flags: flag::SYN,
        offset: 5,
        payload,
        ip_length: None,
        udp_length: None,
        checksum: None,
        cut_to: None,
    }
}

/// An ICMP error (unreachable) about `quoted`, which somebody `from` has received or forwarded.
#[must_use]
pub fn icmp_error(from: IpAddr, to: IpAddr, quoted: &Packet) -> Packet {
    let (proto, kind) = if to.is_ipv4() { (ICMP, 3) } else { (ICMP6, 1) };
    let mut error = packet(from, to, proto, 0);
    error.payload = vec![kind, 3, 0, 0, 0, 0, 0, 0];
    // Without its Ethernet header.
    let quoted = quoted.bytes().split_off(14);
    error.payload.extend(&quoted[..quoted.len().min(128)]);
    error
}

impl Packet {
    /// The packet, changed.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Packet)) -> Packet {
        change(&mut self);
        self
    }

    /// The frame's bytes.
    ///
    /// # Panics
    /// When the addresses are of two families.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.payload.len());
        self.write(&mut bytes);
        bytes
    }

    /// The same in place of what is in a buffer.
    ///
    /// # Panics
    /// As `bytes`.
    pub fn write(&self, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend([2; 12]);
        for tag in &self.tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 5]);
        }
        let (ends, start) = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ends = sum(&from.octets()) + sum(&to.octets());
                (ends, self.v4(bytes, from.octets(), to.octets()))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ends = sum(&from.octets()) + sum(&to.octets());
                (ends, self.v6(bytes, from.octets(), to.octets()))
            }
            _ => panic!("one family per packet"),
        };
        let transport = bytes.len();
        self.transport(bytes);
        self.finish(bytes, ends, start, transport);
        if let Some(length) = self.cut_to {
            bytes.truncate(length);
        }
    }

    /// The IPv4 header; where it begins.
    fn v4(&self, bytes: &mut Vec<u8>, from: [u8; 4], to: [u8; 4]) -> usize {
        bytes.extend(0x0800u16.to_be_bytes());
        let start = bytes.len();
        let words = 5 + self.options.len() as u8 / 4;
        bytes.extend([0x40 | words, 0, 0, 0, 0, 1]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.proto, 0, 0]);
        bytes.extend(from);
        bytes.extend(to);
        bytes.extend(&self.options);
        start
    }

    /// The IPv6 header and those that follow it; where it begins.
    fn v6(&self, bytes: &mut Vec<u8>, from: [u8; 16], to: [u8; 16]) -> usize {
        bytes.extend(0x86ddu16.to_be_bytes());
        let start = bytes.len();
        let mut kinds = self.extensions.iter().map(|extension| extension.kind);
        let first = kinds.next().unwrap_or(self.proto);
        bytes.extend([0x60, 0, 0, 0, 0, 0, first, 64]);
        bytes.extend(from);
        bytes.extend(to);
        for extension in &self.extensions {
            let next = kinds.next().unwrap_or(self.proto);
            let body = match extension.kind {
                // Its second byte is reserved, whatever stands there.
                FRAGMENT => 8,
                AUTHENTICATION => 8 + 4 * usize::from(extension.units),
                _ => 8 + 8 * usize::from(extension.units),
            };
            let end = bytes.len() + body;
            bytes.extend([next, extension.units]);
            bytes.extend(match extension.kind {
                FRAGMENT => self.fragment.to_be_bytes(),
                // Of segments (RFC 8754).
                ROUTING => [4, extension.left],
                _ => [1, 4],
            });
            bytes.resize(end, 0);
        }
        start
    }

    fn transport(&self, bytes: &mut Vec<u8>) {
        let (from, to) = (self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes());
        match self.proto {
            TCP => {
                bytes.extend(from);
                bytes.extend(to);
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, self.offset << 4, self.flags]);
                bytes.extend([0xff, 0xff, 0, 0, 0, 0]);
                let options = usize::from(self.offset).saturating_sub(5) * 4;
                bytes.resize(bytes.len() + options, 1);
            }
            UDP => {
                bytes.extend(from);
                bytes.extend(to);
                let length = self.udp_length.unwrap_or(8 + self.payload.len() as u16);
                bytes.extend(length.to_be_bytes());
                bytes.extend([0, 0]);
            }
            _ => {}
        }
        bytes.extend(&self.payload);
    }

    /// Lengths and checksums.
    fn finish(&self, bytes: &mut [u8], ends: u32, start: usize, transport: usize) {
        let length = bytes.len() - transport;
        let place = transport
            + match self.proto {
                TCP => 16,
                ICMP | ICMP6 => 2,
                _ => 6,
            };
        let has_checksum = matches!(self.proto, TCP | UDP | ICMP | ICMP6);
        if has_checksum && place + 2 <= bytes.len() {
            let pseudo = match self.proto {
                ICMP => 0,
                proto => ends + u32::from(proto) + length as u32,
            };
            let right = !fold(pseudo + sum(&bytes[transport..]));
            let right = if right == 0 && self.proto == UDP {
                !0
            } else {
                right
            };
            let checksum = self.checksum.unwrap_or(right);
            bytes[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        let after = |header: usize| self.ip_length.unwrap_or((bytes.len() - header) as u16);
        if self.to.is_ipv4() {
            let total = after(start).to_be_bytes();
            bytes[start + 2..start + 4].copy_from_slice(&total);
            let header = !fold(sum(&bytes[start..start + 20 + self.options.len()]));
            bytes[start + 10..start + 12].copy_from_slice(&header.to_be_bytes());
        } else {
            let rest = after(start + 40).to_be_bytes();
            bytes[start + 4..start + 6].copy_from_slice(&rest);
        }
    }
}

/// Sum of the bytes' words, the last one filled up with a zero.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| (*low).into());
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
