//! Marks of UDP flows that are known, in front of `FLOWS`: a place that a flow's hash chooses, and the hash in
//! it, beside up to three others'. One more takes the place of another; then `FLOWS` is asked.

use crate::abi::{HEARD_PLACES, KNOWN_PLACES, KNOWN_WAYS};
use crate::packet::Words;

/// In each mark, so that none is a place's zero.
const SET: u64 = 1 << 63;

/// What stands in `KNOWN` while a flow is known. Nobody can find another flow with the same mark who does not know
/// `seed`.
#[inline(always)]
#[must_use]
pub const fn mark([first, second]: Words, remote_port: u16, port: u16, seed: u64) -> u64 {
    let ports = ((remote_port as u64) << 16 | port as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    // As `prefix::mix`, with the ports where all of the address is in.
    let mut x = (first ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = (x ^ second).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= (x >> 32) ^ ports;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    x | SET
}

/// The place of `KNOWN` where a mark stands.
#[inline(always)]
#[must_use]
pub const fn place(mark: u64) -> u32 {
    mark as u32 & (KNOWN_PLACES - 1)
}

/// Whose way there it takes where all are taken.
#[inline(always)]
#[must_use]
pub const fn way(mark: u64) -> usize {
    (mark >> 32) as usize & (KNOWN_WAYS - 1)
}

/// Whether a mark is among those at its place. In which way it stands is chance, and a processor that guesses wrong
/// loses more than it takes to look at all: so one branch for all. `x | -x` has its highest bit where `x` is not 0.
#[inline(always)]
#[must_use]
pub const fn is_among(mark: u64, [a, b, c, d]: [u64; KNOWN_WAYS]) -> bool {
    const fn differs(one: u64, other: u64) -> u64 {
        let x = one ^ other;
        x | x.wrapping_neg()
    }
    let all_differ = differs(a, mark) & differs(b, mark) & differs(c, mark) & differs(d, mark);
    all_differ as i64 >= 0
}

/// The flow's place in `HEARD`.
#[inline(always)]
#[must_use]
pub const fn heard(mark: u64) -> u32 {
    mark as u32 & (HEARD_PLACES - 1)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::v4_mapped;
    use crate::packet::words;
    use std::collections::{HashMap, HashSet};
    use std::vec;
    use std::vec::Vec;

    /// As many flows as there may be.
    const MOST: u32 = 65_536;

    #[test]
    fn flows_have_marks_of_their_own() {
        let flow = |nth: u32| {
            let [a, b, c, d] = (nth / 64).to_be_bytes();
            let ports = ((nth % 8) as u16, (nth / 8 % 8) as u16);
            mark(words(&v4_mapped([a, b, c, d])), ports.0, ports.1, 42)
        };
        for (flows, room) in [(20_000, 0.998), (MOST, 0.955)] {
            let marks: HashSet<u64> = (0..flows).map(flow).collect();
            assert_eq!(marks.len(), flows as usize);
            assert!(!marks.contains(&0));
            let mut places = vec![0; KNOWN_PLACES as usize];
            for mark in &marks {
                places[place(*mark) as usize] += 1;
            }
            let marked: usize = places.iter().map(|there| KNOWN_WAYS.min(*there)).sum();
            let marked = marked as f64 / f64::from(flows);
            assert!((room..=1.0).contains(&marked), "{flows}: {marked}");
        }
        let places: HashSet<u32> = (0..MOST).map(flow).map(heard).collect();
        // As many as there are places take 1 - 1/e of them.
        let taken = places.len() as f64 / f64::from(HEARD_PLACES);
        assert!((0.62..0.645).contains(&taken), "{taken}");
        let ways: HashSet<usize> = (0..64).map(flow).map(way).collect();
        assert_eq!(ways, (0..KNOWN_WAYS).collect());
    }

    #[test]
    fn a_mark_is_found_in_whichever_way_it_stands_and_no_other_is() {
        let of = |nth: u32| mark([nth.into(), 2], 3, 4, 5);
        // Those at one place are alike in all but their upper bits.
        let mut places = HashMap::<u32, Vec<u64>>::new();
        for mark in (0..8 * KNOWN_PLACES).map(of) {
            places.entry(place(mark)).or_default().push(mark);
        }
        let mut full = 0;
        for marks in places.values().filter(|marks| marks.len() > KNOWN_WAYS) {
            let (there, others) = marks.split_at(KNOWN_WAYS);
            let there = there.try_into().expect("four");
            assert!(
                marks[..KNOWN_WAYS]
                    .iter()
                    .all(|mark| is_among(*mark, there))
            );
            assert!(!others.iter().any(|mark| is_among(*mark, there)));
            full += 1;
        }
        assert!(full > 20_000, "{full}");
        // Nor where nothing stands, however few bits a mark has.
        for bit in 0..62 {
            let mark = SET | 1 << bit;
            for there in [[0; 4], [mark ^ 1 << 62 ^ 1 << bit, 0, 0, 0]] {
                assert!(!is_among(mark, there), "{bit}");
            }
        }
        assert!(!is_among(SET, [0; 4]) && is_among(SET, [0, 0, 0, SET]));
    }

    #[test]
    fn each_part_of_a_flow_counts() {
        let one = mark([1, 2], 3, 4, 5);
        for other in [
            mark([9, 2], 3, 4, 5),
            mark([1, 9], 3, 4, 5),
            mark([1, 2], 9, 4, 5),
            mark([1, 2], 3, 9, 5),
            mark([1, 2], 4, 3, 5),
            mark([1, 2], 3, 4, 9),
        ] {
            assert_ne!(one, other);
        }
    }
}
