//! Which of the node's addresses has which place in `NEAR`, in front of `LOCALS`: one hash in a multiplication, so
//! that a packet to any of them is known for one without a hash table.

use crate::abi::NEAR_PLACES;
use crate::packet::Words;

/// The place of an address. Whoever has several may have two at one place: then one of them is looked up in `LOCALS`.
#[inline(always)]
#[must_use]
pub const fn place([first, second]: Words) -> u32 {
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4): the high bits know of all.
    let mixed = (first ^ second.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - NEAR_PLACES.ilog2())) as u32
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::{Addr, v4_mapped};
    use crate::packet::words;
    use std::collections::HashSet;
    use std::vec::Vec;

    #[test]
    fn a_machines_addresses_have_places_of_their_own() {
        let v6 = |last: u8| -> Addr { [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last] };
        let mut all: Vec<Addr> = [
            [127, 0, 0, 1],
            [10, 0, 0, 5],
            [172, 17, 0, 1],
            [172, 18, 0, 1],
            [192, 168, 1, 2],
            [203, 0, 113, 9],
        ]
        .map(v4_mapped)
        .to_vec();
        all.extend((0..4).map(v6));
        let places: HashSet<u32> = all.iter().map(|addr| place(words(addr))).collect();
        assert_eq!(places.len(), all.len());
        assert!(places.iter().all(|place| *place < NEAR_PLACES));
        // Neighbours are spread.
        let many: HashSet<u32> = (0..=255)
            .map(|last| place(words(&v4_mapped([203, 0, 113, last]))))
            .collect();
        assert!(many.len() > 200, "{}", many.len());
    }
}
