//! A packet's addresses in words. Bytes put together one by one cost the programs more than the look-ups
//! that need them: the compiler takes each address apart into 16 registers, and stores them one by one.

use super::{Family, Headers, Packet, Target};
use crate::abi::Addr;

/// An [`Addr`] in two words, with the same bytes in memory.
pub type Words = [u64; 2];

/// The v4-mapped prefix before an IPv4 address, and that address, as numbers of little-endian bytes.
const MAPPED: u64 = 0xffff_0000;

/// Where a packet comes from and goes to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// The sender.
    pub remote: Words,
    /// The receiver.
    pub local: Words,
}

impl Headers {
    /// Source and destination address, in words.
    #[inline(always)]
    pub fn sides(&self, packet: &impl Packet) -> Option<Sides> {
        let at = self.network;
        Some(match self.family {
            Family::V4 => {
                let both = u64::from_le(packet.word(at + 12)?);
                Sides {
                    remote: v4((both & 0xffff_ffff) << 32),
                    local: v4(both & !0xffff_ffff),
                }
            }
            Family::V6 => Sides {
                remote: [packet.word(at + 8)?, packet.word(at + 16)?],
                local: [packet.word(at + 24)?, packet.word(at + 32)?],
            },
        })
    }
}

impl Target {
    /// The source address, in words.
    #[inline(always)]
    pub fn remote(&self, packet: &impl Packet) -> Option<Words> {
        let start = packet.word(self.network + 8)?;
        Some(match self.family {
            // Its upper half.
            Family::V4 => v4(u64::from_le(start) & !0xffff_ffff),
            Family::V6 => [start, packet.word(self.network + 16)?],
        })
    }
}

/// An IPv4 address, v4-mapped, from the word whose upper half it is.
#[inline(always)]
const fn v4(upper: u64) -> Words {
    [0, (MAPPED | upper).to_le()]
}

/// The words of an address.
#[inline(always)]
#[must_use]
pub const fn words(addr: &Addr) -> Words {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *addr;
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}
