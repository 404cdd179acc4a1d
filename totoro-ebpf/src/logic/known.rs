//! Marks of UDP flows that are known, in front of `FLOWS`: a place that a flow's hash chooses, and the hash in
//! it. Another flow may take the place; then `FLOWS` is asked.

use crate::abi::KNOWN_PLACES;
use crate::packet::Words;

/// In each mark, so that none is a place's zero.
const SET: u64 = 1 << 63;

/// The place of a flow in `KNOWN`, and what stands there while it is known. Nobody can find another flow
/// with the same mark who does not know `seed`.
#[inline(always)]
#[must_use]
pub const fn mark([first, second]: Words, remote_port: u16, port: u16, seed: u64) -> (u32, u64) {
    let ports = ((remote_port as u64) << 16 | port as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    // As `prefix::mix`, with the ports where all of the address is in.
    let mut x = (first ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = (x ^ second).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= (x >> 32) ^ ports;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    (x as u32 & (KNOWN_PLACES - 1), x | SET)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::v4_mapped;
    use crate::packet::words;
    use std::collections::HashSet;
    use std::vec::Vec;

    #[test]
    fn flows_have_marks_of_their_own() {
        let flow = |nth: u32| {
            let [a, b, c, d] = (nth / 64).to_be_bytes();
            let ports = ((nth % 8) as u16, (nth / 8 % 8) as u16);
            mark(words(&v4_mapped([a, b, c, d])), ports.0, ports.1, 42)
        };
        let all: Vec<(u32, u64)> = (0..KNOWN_PLACES).map(flow).collect();
        let marks: HashSet<u64> = all.iter().map(|(_, mark)| *mark).collect();
        assert_eq!(marks.len(), all.len());
        assert!(!marks.contains(&0));
        // As many as there are places take 1 - 1/e of them.
        let places: HashSet<u32> = all.iter().map(|(place, _)| *place).collect();
        let taken = places.len() as f64 / f64::from(KNOWN_PLACES);
        assert!((0.62..0.645).contains(&taken), "{taken}");
        assert!(places.iter().all(|place| *place < KNOWN_PLACES));
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
