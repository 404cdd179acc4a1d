//! Bits in front of `BANS`, so that hardly anybody needs a walk through the trie to be told that nobody
//! banned them: `BANNED` is a Bloom filter with one hash for single addresses and one for each of a few
//! prefix lengths; a ban has the bit of the longest of them that is no longer than its own.
//!
//! A bit that is set says that `BANS` must be asked; one that is not, that it has nothing to say. So a bit
//! is set before its ban is entered, and cleared after it is removed.

use super::prefix::{self, mix};
use crate::abi::{Addr, BANNED_BITS, SINGLES_PLACES, Single};
use crate::packet::{Words, words};

/// The head of a table of which nothing is known: `BANS` is asked for everybody.
pub const UNKNOWN: u64 = 0;

/// The prefix lengths that have bits, of the v4-mapped address and of IPv6: a single address, a group of
/// them, and what whole networks are banned by.
const LENGTHS: [[u32; 4]; 2] = [[128, 96 + 24, 96 + 16, 96 + 8], [128, 48, 32, 16]];
/// The place there of single addresses.
const SINGLE: usize = 0;

// Flags of a head: whether there are bans of a place of LENGTHS and a family, at `2 * place + family`, then:
/// There are bans that are wider than all of these. They have no bits: `BANS` is asked. Of IPv4; IPv6 has the
/// next bit.
const WIDE: u64 = 1 << 8;
/// The table is filled.
const FILLED: u64 = 1 << 10;
const FLAGS: u64 = (1 << 11) - 1;
/// The kinds but single addresses and [`WIDE`], of IPv4.
const GROUPS: u64 = kind(1) | kind(2) | kind(3);

/// The flag of a place of `LENGTHS`, of IPv4; IPv6 has the next bit.
const fn kind(place: usize) -> u64 {
    1 << (2 * place)
}

/// The first place's value: which kinds of bans there are, and a random seed of the hashes.
const fn head(seed: u64, kinds: u64) -> u64 {
    (seed & !FLAGS) | FILLED | kinds
}

/// Whom `BANS` must be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asks {
    /// Not for this address.
    Not,
    /// For its own ban, most likely, which `SINGLES` has too by this hash.
    Single(u64),
    /// For the longest prefix.
    Prefix,
}

/// Whether `BANS` must be asked for an address, given the table's first place and a look at the others.
#[inline(always)]
#[must_use]
pub fn asks(head: u64, remote: Words, word: impl Fn(u32) -> u64) -> Asks {
    let family = usize::from(!prefix::is_v4_words(remote));
    let kinds = head >> family;
    if head & FILLED == 0 {
        return Asks::Prefix;
    }
    let is_set = |(place, mask): (u32, u64)| word(place) & mask != 0;
    if kinds & kind(SINGLE) != 0 {
        let hash = hash(head, remote, family, SINGLE);
        if is_set(bit(hash)) {
            return Asks::Single(hash);
        }
    }
    let is_set = |nth| kinds & kind(nth) != 0 && is_set(bit(hash(head, remote, family, nth)));
    // One look for all that hardly any node has.
    if kinds & (GROUPS | WIDE) != 0 && (kinds & WIDE != 0 || is_set(1) || is_set(2) || is_set(3)) {
        return Asks::Prefix;
    }
    Asks::Not
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
    let family = usize::from(bits < 96 || !prefix::is_v4(addr));
    // One that contains all of IPv4, as the trie sees it.
    let mut kinds = if bits < 96 && contains_v4(bits, addr) {
        WIDE
    } else {
        0
    };
    let Some(nth) = LENGTHS[family].iter().position(|length| *length <= bits) else {
        return (kinds | WIDE << family, None);
    };
    kinds |= kind(nth) << family;
    (
        kinds,
        Some(bit(hash(head(seed, 0), words(addr), family, nth))),
    )
}

/// Whether a prefix of so many bits, fewer than 96, contains the v4-mapped addresses.
fn contains_v4(bits: u32, addr: &Addr) -> bool {
    let any = u128::from_be_bytes(crate::abi::v4_mapped([0; 4]));
    let differ = u128::from_be_bytes(*addr) ^ any;
    differ.leading_zeros() >= bits
}

/// The place of a ban of a single address in `SINGLES`, and what stands there, by hashes of `seed`.
#[must_use]
pub fn single(seed: u64, addr: &Addr, until_ns: u64) -> (u32, Single) {
    let family = usize::from(!prefix::is_v4(addr));
    let hash = hash(head(seed, 0), words(addr), family, SINGLE);
    (place_of_single(hash), Single { hash, until_ns })
}

/// The place of a single address in `SINGLES`, by its hash: other bits than choose that in `BANNED`.
#[inline(always)]
#[must_use]
pub const fn place_of_single(hash: u64) -> u32 {
    (hash >> 48) as u32 & (SINGLES_PLACES - 1)
}

/// The hash of an address, or of the group that it belongs to, by a place of `LENGTHS`.
#[inline(always)]
const fn hash(head: u64, remote: Words, family: usize, nth: usize) -> u64 {
    // A seed for each length.
    let seed = (head & !FLAGS).rotate_left(16 * nth as u32);
    let length = if family == 0 {
        LENGTHS[0][nth]
    } else {
        LENGTHS[1][nth]
    };
    mix(first_bits(remote, length), seed)
}

/// The first bits of an address; the others are zeros.
#[inline(always)]
const fn first_bits([first, second]: Words, bits: u32) -> Words {
    match bits {
        128 => [first, second],
        64..128 => [first, second & (u64::MAX << (128 - bits)).to_be()],
        _ => [first & (u64::MAX << (64 - bits)).to_be(), 0],
    }
}

/// Place and bit in `BANNED`, behind the head.
#[inline(always)]
const fn bit(hash: u64) -> (u32, u64) {
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

    fn answer((head, table): &(u64, HashMap<u32, u64>), addr: &Addr) -> Asks {
        let word = |place: u32| table.get(&place).copied().unwrap_or(0);
        super::asks(*head, words(addr), word)
    }

    fn asks(table: &(u64, HashMap<u32, u64>), addr: &Addr) -> bool {
        answer(table, addr) != Asks::Not
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
                if bans.contains(&(128, *addr)) {
                    let (place, single) = single(seed, addr, 0);
                    prop_assert_eq!(answer(&table, addr), Asks::Single(single.hash));
                    prop_assert!(place < SINGLES_PLACES);
                }
            }
        }
    }

    #[test]
    fn few_are_asked_in_vain() {
        let v4 = |net: u8, nth: u32| v4_mapped((u32::from(net) << 24 | nth).to_be_bytes());
        let single: Vec<Ban> = (0..10_000).map(|nth| (128, v4(10, nth * 1_301))).collect();
        let groups: Vec<Ban> = (0..10_000).map(|nth| (120, v4(10, nth << 8))).collect();
        let networks: Vec<Ban> = (1..=9)
            .map(|nth| (96 + 7 + nth, v4(12 << (nth % 2), 0)))
            .collect();
        for bans in [single, groups] {
            let table = filled(0x0123_4567_89ab_cdef, &bans);
            let others = (0..100_000).map(|nth| v4(11, nth * 163));
            let in_vain = others.filter(|addr| asks(&table, addr)).count();
            assert!((100..2_000).contains(&in_vain), "{in_vain} of 100,000");
        }
        let table = filled(0x0123_4567_89ab_cdef, &networks);
        let others = (0..100_000).map(|nth| v4(11, nth * 163));
        assert_eq!(others.filter(|addr| asks(&table, addr)).count(), 0);
    }

    #[test]
    fn what_is_not_filled_is_asked_and_an_empty_one_is_not() {
        let addr = v4_mapped([192, 0, 2, 1]);
        assert!(asks(&(UNKNOWN, HashMap::new()), &addr));
        assert!(!asks(&filled(7, &[]), &addr));
        // Of the other family.
        let v6 = [0x20; 16];
        for bits in [0, 7, 20, 33, 48, 100, 128] {
            let table = filled(7, &[(bits, v6)]);
            assert!(
                asks(&table, &v6) && (bits == 0 || !asks(&table, &addr)),
                "{bits}"
            );
        }
        assert!(
            asks(&filled(7, &[(0, [0; 16])]), &addr),
            "::/0 contains both"
        );
    }
}
