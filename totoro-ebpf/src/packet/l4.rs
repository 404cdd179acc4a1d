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

/// TCP flags (0 for UDP), length of the header.
#[inline(always)]
pub(super) fn rest(packet: &impl Packet, proto: u8, at: usize) -> Option<(u8, usize)> {
    if proto != TCP {
        return Some((0, 8));
    }
    let [offset, flags] = packet.read(at + 12)?;
    Some((flags, usize::from(offset >> 4) * 4))
}
