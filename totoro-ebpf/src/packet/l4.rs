//! TCP (RFC 9293) and UDP (RFC 768) ports and flags.

use super::Packet;
use crate::abi::TCP;

/// TCP flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// TCP flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// TCP flag: reset.
pub const RST: u8 = 0x04;
/// TCP flag: push.
pub const PSH: u8 = 0x08;
/// TCP flag: the acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// Source port, destination port, TCP flags (0 for UDP), length of the header.
#[inline(always)]
pub(super) fn ports(packet: &impl Packet, proto: u8, at: usize) -> Option<(u16, u16, u8, usize)> {
    // The ports first: for most packets they end the matter.
    let [a, b, c, d] = packet.read(at)?;
    let (flags, header) = if proto == TCP {
        let [offset, flags] = packet.read(at + 12)?;
        (flags, usize::from(offset >> 4) * 4)
    } else {
        (0, 8)
    };
    Some((
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d]),
        flags,
        header,
    ))
}
