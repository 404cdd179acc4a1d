//! Where a port stands in the arrays that have a place for each: TCP in the first half, UDP in the second.

use crate::abi::{PLACES, POOL_WORDS, TCP};

/// Index of the word and mask of the bit of a port in `POOL`.
#[inline(always)]
#[must_use]
pub const fn bit(proto: u8, port: u16) -> (u32, u64) {
    let half = if proto == TCP { 0 } else { POOL_WORDS / 2 };
    (half + port as u32 / 64, 1 << (port % 64))
}

/// A port's place in `GATES` and `SYN_TATS`.
#[inline(always)]
#[must_use]
pub const fn place(proto: u8, port: u16) -> u32 {
    let half = if proto == TCP { 0 } else { PLACES / 2 };
    half + port as u32
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::UDP;

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let mut words = std::vec![0u64; POOL_WORDS as usize];
        for proto in [TCP, UDP] {
            for port in 0..=u16::MAX {
                let (word, mask) = bit(proto, port);
                assert_eq!(words[word as usize] & mask, 0);
                words[word as usize] |= mask;
            }
        }
        assert!(words.iter().all(|&word| word == u64::MAX));
        let last = |proto| place(proto, u16::MAX);
        assert_eq!((place(TCP, 0), last(TCP) + 1), (0, place(UDP, 0)));
        assert_eq!(last(UDP) + 1, PLACES);
    }
}
