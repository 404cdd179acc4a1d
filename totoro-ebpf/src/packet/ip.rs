//! IPv4 with options (RFC 791), IPv6 with extension headers (RFC 8200), first fragments.

use super::{MAX_OFFSET, Packet};
use crate::abi::{Addr, TCP, UDP, v4_mapped};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// Extension headers that are followed; a longer chain is the stack's to judge.
const MAX_EXTENSIONS: usize = 6;

/// Protocol and transport offset of an IPv4 packet.
#[inline(always)]
pub(super) fn transport_v4(packet: &impl Packet, at: usize) -> Option<(u8, usize)> {
    let start: [u8; 10] = packet.read(at)?;
    let header = usize::from(start[0] & 0x0f) * 4;
    let fragment = u16::from_be_bytes([start[6], start[7]]) & 0x1fff;
    if start[0] >> 4 != 4 || header < 20 || fragment != 0 {
        return None;
    }
    match start[9] {
        proto @ (TCP | UDP) => Some((proto, at + header)),
        _ => None,
    }
}

/// Protocol and transport offset of an IPv6 packet.
#[inline(always)]
pub(super) fn transport_v6(packet: &impl Packet, at: usize) -> Option<(u8, usize)> {
    let [mut next] = packet.read(at + 6)?;
    let [version] = packet.read(at)?;
    if version >> 4 != 6 {
        return None;
    }
    let mut at = at + 40;
    // Nearly always: whoever has no extension need not be ready for the next one.
    if next == TCP || next == UDP {
        return Some((next, at));
    }
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            TCP | UDP => return Some((next, at)),
            HOP_BY_HOP | DESTINATION | MOBILITY => {
                let [kind, units] = packet.read(at)?;
                next = kind;
                at += (usize::from(units) + 1) * 8;
            }
            ROUTING => {
                let [kind, units, _, left] = packet.read(at)?;
                // This node is not where it goes: the stack forwards it, or complains (RFC 8200, 4.4).
                if left != 0 {
                    return None;
                }
                next = kind;
                at += (usize::from(units) + 1) * 8;
            }
            AUTHENTICATION => {
                let [kind, units] = packet.read(at)?;
                next = kind;
                at += (usize::from(units) + 2) * 4;
            }
            FRAGMENT => {
                let header: [u8; 4] = packet.read(at)?;
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                    return None;
                }
                next = header[0];
                at += 8;
            }
            _ => return None,
        }
        if at > MAX_OFFSET {
            return None;
        }
    }
    None
}

/// Source and destination of an IPv4 packet, v4-mapped.
#[inline(always)]
pub(super) fn addresses_v4(packet: &impl Packet, at: usize) -> Option<(Addr, Addr)> {
    let [a, b, c, d, e, f, g, h] = packet.read(at + 12)?;
    Some((v4_mapped([a, b, c, d]), v4_mapped([e, f, g, h])))
}

/// Source and destination of an IPv6 packet.
#[inline(always)]
pub(super) fn addresses_v6(packet: &impl Packet, at: usize) -> Option<(Addr, Addr)> {
    Some((packet.read(at + 8)?, packet.read(at + 24)?))
}
