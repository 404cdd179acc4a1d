//! Bits in front of `BANS`, so that hardly anybody needs a walk through the trie to be told that nobody
//! banned them: `BANNED` is a Bloom filter with one hash for single addresses and one for groups of them.
//!
//! A bit that is set says that `BANS` must be asked; one that is not, that it has nothing to say. So a bit
//! is set before its ban is entered, and cleared after it is removed.

use super::prefix::{self, mix};
use crate::abi::{Addr, BANNED_BITS};
use crate::packet::{Words, words};

/// The head of a table of which nothing is known: `BANS` is asked for everybody.
pub const UNKNOWN: u64 = 0;

// Flags of a head, of IPv4; IPv6 has the next bit.
/// There are bans of single addresses.
const SINGLE: u64 = 1;
/// There are longer bans than of a group: IPv4 /24, IPv6 /48.
const GROUP: u64 = 1 << 2;
/// There are bans that are wider than a group. They have no bits: `BANS` is asked.
const WIDE: u64 = 1 << 4;
/// The table is filled.
const FILLED: u64 = 1 << 6;
const FLAGS: u64 = (1 << 7) - 1;

/// Bits of an address that are a group's: of the v4-mapped one, and of IPv6.
const GROUP_BITS: [u32; 2] = [96 + 24, 48];

/// The first place's value: which kinds of bans there are, and a random seed of the hashes.
const fn head(seed: u64, kinds: u64) -> u64 {
    (seed & !FLAGS) | FILLED | kinds
}

/// Whether `BANS` must be asked for an address, given the table's first place and a look at the others.
#[inline(always)]
#[must_use]
pub fn may_be(head: u64, remote: Words, word: impl Fn(u32) -> u64) -> bool {
    let family = u32::from(!prefix::is_v4_words(remote));
    let kinds = head >> family;
    if head & FILLED == 0 || kinds & WIDE != 0 {
        return true;
    }
    let is_set = |(place, mask): (u32, u64)| word(place) & mask != 0;
    (kinds & SINGLE != 0 && is_set(single(head, remote)))
        || (kinds & GROUP != 0 && is_set(group(head, remote, family)))
}

/// Has a table hold bans, which are keys of `BANS` (prefix length and address), and nothing else: calls
/// `set` with a place and a bit for each that has one, and answers the head.
pub fn fill(
    seed: u64,
    bans: impl IntoIterator<Item = (u32, Addr)>,
    mut set: impl FnMut(u32, u64),
) -> u64 {
    let mut kinds = 0;
    for (bits, addr) in bans {
        let (kind, bit) = mark(seed, bits, &addr);
        kinds |= kind;
        if let Some((place, mask)) = bit {
            set(place, mask);
        }
    }
    head(seed, kinds)
}

/// What an entry of `BANS` adds to the head's kinds, and the place and bit that are set for it, by its
/// key: prefix length and address.
fn mark(seed: u64, bits: u32, addr: &Addr) -> (u64, Option<(u32, u64)>) {
    let family = u32::from(bits < 96 || !prefix::is_v4(addr));
    let remote = words(addr);
    let head = head(seed, 0);
    if bits >= 128 {
        (SINGLE << family, Some(single(head, remote)))
    } else if bits >= GROUP_BITS[family as usize] {
        let mut kinds = GROUP << family;
        // One that contains all of IPv4, as the trie sees it.
        if bits < 96 && contains_v4(bits, addr) {
            kinds |= WIDE;
        }
        (kinds, Some(group(head, remote, family)))
    } else if family == 1 && contains_v4(bits, addr) {
        (WIDE | WIDE << 1, None)
    } else {
        (WIDE << family, None)
    }
}

/// Whether a prefix of so many bits, fewer than 96, contains the v4-mapped addresses.
fn contains_v4(bits: u32, addr: &Addr) -> bool {
    let any = u128::from_be_bytes(crate::abi::v4_mapped([0; 4]));
    let differ = u128::from_be_bytes(*addr) ^ any;
    differ.leading_zeros() >= bits
}

/// Place and bit of an address.
#[inline(always)]
const fn single(head: u64, remote: Words) -> (u32, u64) {
    place(mix(remote, head & !FLAGS))
}

/// Place and bit of the group that an address of a family belongs to.
#[inline(always)]
const fn group(head: u64, [first, second]: Words, family: u32) -> (u32, u64) {
    let group = if family == 0 {
        [
            first,
            second & u64::from_ne_bytes([255, 255, 255, 255, 255, 255, 255, 0]),
        ]
    } else {
        [
            first & u64::from_ne_bytes([255, 255, 255, 255, 255, 255, 0, 0]),
            0,
        ]
    };
    place(mix(group, !(head & !FLAGS)))
}

/// Behind the head.
#[inline(always)]
const fn place(hash: u64) -> (u32, u64) {
    (
        1 + (hash as u32 & (BANNED_BITS / 64 - 1)),
        1 << ((hash >> 32) & 63),
    )
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::{BANNED_PLACES, v4_mapped};
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec::Vec;

    /// Prefix length, as `BANS` has it, and address.
    type Ban = (u32, Addr);

    fn filled(seed: u64, bans: &[Ban]) -> (u64, HashMap<u32, u64>) {
        let mut table = HashMap::new();
        let head = fill(seed, bans.iter().copied(), |place, mask| {
            assert!((1..BANNED_PLACES).contains(&place));
            *table.entry(place).or_default() |= mask;
        });
        (head, table)
    }

    fn asks((head, table): &(u64, HashMap<u32, u64>), addr: &Addr) -> bool {
        let word = |place: u32| table.get(&place).copied().unwrap_or(0);
        may_be(*head, words(addr), word)
    }

    /// As the kernel's trie compares: the first bits, whatever family they are of.
    fn covers((bits, ban): &Ban, addr: &Addr) -> bool {
        let differ = u128::from_be_bytes(*ban) ^ u128::from_be_bytes(*addr);
        differ.leading_zeros() >= *bits
    }

    /// Few different ones, so that bans hit; of both families, and near the v4-mapped ones.
    fn addr() -> impl Strategy<Value = Addr> {
        let v4 = any::<[bool; 4]>().prop_map(|four| v4_mapped(four.map(u8::from)));
        let places = proptest::collection::vec((0_usize..16, 0_u8..3), 0..4);
        let v6 = (any::<bool>(), places).prop_map(|(mapped, places)| {
            let mut addr = if mapped { v4_mapped([0; 4]) } else { [0; 16] };
            for (at, byte) in places {
                addr[at] ^= byte;
            }
            addr
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        /// Nobody who is banned is told apart from the banned.
        #[test]
        fn none_is_missed(seed in any::<u64>(),
                          bans in proptest::collection::vec((0_u32..=128, addr()), 0..6),
                          asked in proptest::collection::vec(addr(), 1..20)) {
            let table = filled(seed, &bans);
            for addr in &asked {
                let is_banned = bans.iter().any(|ban| covers(ban, addr));
                prop_assert!(!is_banned || asks(&table, addr), "{addr:?} of {bans:?}");
            }
        }
    }

    #[test]
    fn few_are_asked_in_vain() {
        let v4 = |net: u8, nth: u32| v4_mapped((u32::from(net) << 24 | nth).to_be_bytes());
        let single: Vec<Ban> = (0..10_000).map(|nth| (128, v4(10, nth * 1_301))).collect();
        let groups: Vec<Ban> = (0..10_000).map(|nth| (120, v4(10, nth << 8))).collect();
        for bans in [single, groups] {
            let table = filled(0x0123_4567_89ab_cdef, &bans);
            let others = (0..100_000).map(|nth| v4(11, nth * 163));
            let in_vain = others.filter(|addr| asks(&table, addr)).count();
            assert!((100..2_000).contains(&in_vain), "{in_vain} of 100,000");
        }
    }

    #[test]
    fn what_is_not_filled_is_asked_and_an_empty_one_is_not() {
        let addr = v4_mapped([192, 0, 2, 1]);
        assert!(asks(&(UNKNOWN, HashMap::new()), &addr));
        assert!(!asks(&filled(7, &[]), &addr));
        // Of the other family.
        let v6 = [0x20; 16];
        assert!(!asks(&filled(7, &[(20, v6)]), &addr) && asks(&filled(7, &[(20, v6)]), &v6));
        assert!(
            asks(&filled(7, &[(0, [0; 16])]), &addr),
            "::/0 contains both"
        );
    }
}
