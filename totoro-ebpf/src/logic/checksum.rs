//! The Internet checksum of a packet that was changed (RFC 1624).

/// The checksum `old`, as it stands in the packet, after a change by `diff`: ones' complement sum
/// of what is new less what was, as `bpf_csum_diff` answers it.
#[inline(always)]
#[must_use]
pub const fn changed(old: [u8; 2], diff: u32) -> [u8; 2] {
    let mut sum = !u16::from_ne_bytes(old) as u64 + diff as u64;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn sum(bytes: &[u8]) -> u32 {
        let words = bytes.chunks(2).map(|w| u16::from_ne_bytes([w[0], w[1]]));
        let mut sum: u32 = words.map(u32::from).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }

    #[test]
    fn a_changed_packet_has_the_sum_of_one_made_so() {
        for (old, new) in [
            (&b"http://node.example:"[..], &b"t:aaaaaaaaaaaaaple:"[..19]),
            (b"\0\0\0\0", b"\xff\xff\xff\xff"),
            (b"\xff\xff\xff\xff", b"\0\0\0\0"),
            (b"abcd", b"abcd"),
        ] {
            let new: Vec<u8> = new.iter().copied().chain(*b"x").take(old.len()).collect();
            let rest = b"what stands before and after it.";
            let whole = |part: &[u8]| !(sum(&[&rest[..], part].concat()) as u16);
            // As the helper: every new word, and the complement of every old one.
            let inverse: Vec<u8> = old.iter().map(|byte| !byte).collect();
            let diff = sum(&[&new[..], &inverse[..]].concat());
            let changed = u16::from_ne_bytes(changed(whole(old).to_ne_bytes(), diff));
            assert_eq!(changed, whole(&new), "{old:?}");
        }
    }
}
