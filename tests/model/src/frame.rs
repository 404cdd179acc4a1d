//! What can be read of a frame: Ethernet (IEEE 802.3, two tags of 802.1Q or 802.1ad at most), IPv4 (RFC
//! 791), IPv6 with extension headers (RFC 8200, 4302, 6275), the ports of TCP and UDP.
//!
//! The contract: what can't be followed to the ports of TCP or UDP is nobody's to judge and passes.
//! Six extension headers are followed, and nothing is read that begins behind byte 1,024. No length and
//! no checksum is looked at, since the stack does.

use totoro_ebpf::abi::{Addr, TCP, UDP, v4_mapped};

use crate::world::has_ports;

/// Behind this byte nothing is read.
const LAST: usize = 1024;
/// Extension headers that are followed.
const EXTENSIONS: usize = 6;

/// A frame whose ports could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// TCP or UDP.
    pub proto: u8,
    /// The sender.
    pub from: Addr,
    /// The receiver.
    pub to: Addr,
    /// The sender's port.
    pub from_port: u16,
    /// The receiver's port.
    pub to_port: u16,
    /// TCP's flags.
    pub flags: u8,
    /// Whether it is IPv6 with extension headers.
    pub extended: bool,
    /// Where the TCP or UDP header begins.
    pub transport: usize,
    /// Where the data begins.
    pub data: usize,
}

/// The bytes of a frame from `at` on; `None` when they are not all there, or too far behind.
pub(crate) fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    if at > LAST {
        return None;
    }
    frame.get(at..)?.first_chunk().copied()
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    bytes(frame, at).map(u16::from_be_bytes)
}

impl Seen {
    /// Reads an Ethernet frame.
    #[must_use]
    pub fn read(frame: &[u8]) -> Option<Seen> {
        let mut at = 12;
        let mut tags = 0;
        while matches!(word(frame, at)?, 0x8100 | 0x88a8) && tags < 2 {
            at += 4;
            tags += 1;
        }
        match word(frame, at)? {
            0x0800 => Self::v4(frame, at + 2),
            0x86dd => Self::v6(frame, at + 2),
            _ => None,
        }
    }

    fn v4(frame: &[u8], at: usize) -> Option<Seen> {
        let [version_length] = bytes(frame, at)?;
        let (version, length) = (version_length >> 4, 4 * usize::from(version_length & 15));
        let is_later_fragment = word(frame, at + 6)? & 0x1fff != 0;
        let [proto] = bytes(frame, at + 9)?;
        if version != 4 || length < 20 || is_later_fragment || !has_ports(proto) {
            return None;
        }
        let from = v4_mapped(bytes(frame, at + 12)?);
        let to = v4_mapped(bytes(frame, at + 16)?);
        Self::ports(frame, (proto, at + length), (from, to), false)
    }

    fn v6(frame: &[u8], at: usize) -> Option<Seen> {
        let [version] = bytes(frame, at)?;
        let [mut next] = bytes(frame, at + 6)?;
        if version >> 4 != 6 {
            return None;
        }
        let ends = (bytes(frame, at + 8)?, bytes(frame, at + 24)?);
        let mut at = at + 40;
        let mut followed = 0;
        while !has_ports(next) {
            if followed == EXTENSIONS {
                return None;
            }
            let [after, length] = bytes(frame, at)?;
            let length = usize::from(length);
            let size = match next {
                // Hop-by-hop, destination options, mobility: in units of eight bytes, less one.
                0 | 60 | 135 => 8 * length + 8,
                // Routing, where there is no node left to go to.
                43 if bytes::<1>(frame, at + 3)? == [0] => 8 * length + 8,
                // Authentication: in units of four, less two.
                51 => 4 * length + 8,
                // The first fragment has all headers, later ones none.
                44 if word(frame, at + 2)? >> 3 == 0 => 8,
                _ => return None,
            };
            next = after;
            at += size;
            followed += 1;
        }
        Self::ports(frame, (next, at), ends, followed > 0)
    }

    fn ports(
        frame: &[u8],
        (proto, at): (u8, usize),
        (from, to): (Addr, Addr),
        extended: bool,
    ) -> Option<Seen> {
        let [a, b, c, d] = bytes(frame, at)?;
        let (flags, header) = match proto {
            TCP => {
                let [offset, flags] = bytes(frame, at + 12)?;
                (flags, 4 * usize::from(offset >> 4))
            }
            UDP => (0, 8),
            _ => return None,
        };
        Some(Seen {
            proto,
            from,
            to,
            from_port: u16::from_be_bytes([a, b]),
            to_port: u16::from_be_bytes([c, d]),
            flags,
            extended,
            transport: at,
            data: at + header,
        })
    }

    /// Whether it asks for a new TCP connection, as a listener sees it: SYN and no ACK.
    #[must_use]
    pub const fn is_opening(&self) -> bool {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        self.proto == TCP && self.flags & SYN != 0 && self.flags & ACK == 0
    }
}
