//! Packet parsing, generic over where the bytes are: a slice in tests, packet memory in XDP, an
//! skb in TC and cgroup programs.
//!
//! The contract of every parser here: it reads only through [`Packet::read`], and answers `None`
//! for what it cannot follow to the ports of a TCP or UDP header (truncation, fragments beyond the
//! first, unknown extension headers, other protocols). `None` means "not ours to judge": the
//! packet passes, and the stack's own socket lookup decides.

mod eth;
pub mod greeting;
mod ip;
mod l4;
mod sides;

pub use eth::network_offset;
pub use l4::{ACK, FIN, PSH, RST, SYN};
pub use sides::{Sides, Words, words};

use crate::abi::Addr;

/// No header is looked for beyond this offset. It bounds the verifier's view of variable offsets
/// and is past any chain of headers that the parsers follow.
pub const MAX_OFFSET: usize = 1024;

/// Bytes of a packet.
pub trait Packet {
    /// The `N` bytes at `at`; `None` when they are not all there.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// The two bytes at `at`, in network order.
    #[inline(always)]
    fn half(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.read(at)?))
    }

    /// The four bytes at `at`, as two in network order.
    #[inline(always)]
    fn halves(&self, at: usize) -> Option<(u16, u16)> {
        let [a, b, c, d] = self.read(at)?;
        Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    /// The eight bytes at `at`, as they stand in memory.
    #[inline(always)]
    fn word(&self, at: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(self.read(at)?))
    }
}

impl Packet for &[u8] {
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if at > MAX_OFFSET {
            return None;
        }
        self.get(at..at + N)?.try_into().ok()
    }
}

/// Which network header stands at [`Headers::network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where a packet's headers are, and what opens a flow: enough to decide whether it concerns a
/// pool port before any address is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The network header's family.
    pub family: Family,
    /// The network header's offset.
    pub network: usize,
    /// The transport header's offset.
    pub transport: usize,
    /// [`crate::abi::TCP`] or [`crate::abi::UDP`].
    pub proto: u8,
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// TCP flags ([`SYN`], …); 0 for UDP.
    pub flags: u8,
    /// Where the transport header ends by its own word, and the data begins.
    pub data: usize,
}

/// Where a packet goes to: as much of its headers as decides for nearly all that they concern nobody
/// here. [`Target::headers`] has the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// As [`Headers::family`].
    pub family: Family,
    /// As [`Headers::network`].
    pub network: usize,
    /// As [`Headers::transport`].
    pub transport: usize,
    /// As [`Headers::proto`].
    pub proto: u8,
    /// As [`Headers::source_port`].
    pub source_port: u16,
    /// As [`Headers::destination_port`].
    pub destination_port: u16,
}

/// Whether TCP's flags ask for a new connection: SYN without ACK, as the stack's listener judges it.
#[inline(always)]
const fn opens(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN
}

impl Target {
    /// Parses from an Ethernet header at offset 0, through up to two VLAN tags.
    #[inline(always)]
    pub fn from_ethernet(packet: &impl Packet) -> Option<Target> {
        let (family, network) = network_offset(packet)?;
        Target::from_network(packet, family, network)
    }

    /// Parses from a network header at offset `network`.
    #[inline(always)]
    fn from_network(packet: &impl Packet, family: Family, network: usize) -> Option<Target> {
        let (proto, transport) = match family {
            Family::V4 => ip::transport_v4(packet, network)?,
            Family::V6 => ip::transport_v6(packet, network)?,
        };
        // Of either protocol.
        let (source_port, destination_port) = packet.halves(transport)?;
        Some(Target {
            family,
            network,
            transport,
            proto,
            source_port,
            destination_port,
        })
    }

    /// Whether a TCP packet asks for a new connection, as [`Headers::is_tcp_open`]; or `None`.
    #[inline(always)]
    pub fn is_tcp_open(&self, packet: &impl Packet) -> Option<bool> {
        let [flags] = packet.read(self.transport + 13)?;
        Some(opens(flags))
    }

    /// All of the headers.
    #[inline(always)]
    pub fn headers(&self, packet: &impl Packet) -> Option<Headers> {
        let (flags, header) = l4::rest(packet, self.proto, self.transport)?;
        Some(Headers {
            family: self.family,
            network: self.network,
            transport: self.transport,
            proto: self.proto,
            source_port: self.source_port,
            destination_port: self.destination_port,
            flags,
            data: self.transport + header,
        })
    }
}

impl Headers {
    /// Parses from an Ethernet header at offset 0, through up to two VLAN tags.
    #[inline(always)]
    pub fn from_ethernet(packet: &impl Packet) -> Option<Headers> {
        Target::from_ethernet(packet)?.headers(packet)
    }

    /// Parses from a network header at offset `network`.
    #[inline(always)]
    pub fn from_network(packet: &impl Packet, family: Family, network: usize) -> Option<Headers> {
        Target::from_network(packet, family, network)?.headers(packet)
    }

    /// Parses an IP packet without a link header, as cgroup programs see it.
    #[inline(always)]
    pub fn from_ip(packet: &impl Packet) -> Option<Headers> {
        let family = match packet.read::<1>(0)?[0] >> 4 {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        Headers::from_network(packet, family, 0)
    }

    /// Whether the packet asks for a new TCP connection. UDP has no such mark.
    #[inline(always)]
    #[must_use]
    pub const fn is_tcp_open(&self) -> bool {
        self.proto == crate::abi::TCP && opens(self.flags)
    }

    /// Source and destination address.
    #[inline(always)]
    pub fn addresses(&self, packet: &impl Packet) -> Option<(Addr, Addr)> {
        match self.family {
            Family::V4 => ip::addresses_v4(packet, self.network),
            Family::V6 => ip::addresses_v6(packet, self.network),
        }
    }
}

#[cfg(test)]
mod tests;
