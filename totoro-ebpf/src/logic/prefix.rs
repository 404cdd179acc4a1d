//! What counts as one source: an IPv4 address, or an IPv6 /64.

use crate::abi::Addr;

/// Whether an address is v4-mapped (`::ffff:0:0/96`).
#[inline(always)]
#[must_use]
pub const fn is_v4(addr: &Addr) -> bool {
    u64_at(addr, 0) == 0 && u32_at(addr, 8) == 0x0000_ffff
}

/// The source that an address belongs to.
#[inline(always)]
#[must_use]
pub const fn source(addr: &Addr) -> Addr {
    if is_v4(addr) {
        return *addr;
    }
    let [a, b, c, d, e, f, g, h, ..] = *addr;
    [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Mixes a source into 64 bits: two rounds of multiply and fold, as wyhash's `mum` step without
/// its 128-bit product. Good enough to spread a sketch; not meant to resist who knows the seed,
/// which is why `seed` is random per load.
#[inline(always)]
#[must_use]
pub const fn mix(addr: &Addr, seed: u64) -> u64 {
    let mut x = u64_at(addr, 0) ^ seed;
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x ^= u64_at(addr, 8);
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

const fn u64_at(addr: &Addr, at: usize) -> u64 {
    u64::from_be_bytes([
        addr[at],
        addr[at + 1],
        addr[at + 2],
        addr[at + 3],
        addr[at + 4],
        addr[at + 5],
        addr[at + 6],
        addr[at + 7],
    ])
}

const fn u32_at(addr: &Addr, at: usize) -> u32 {
    u32::from_be_bytes([addr[at], addr[at + 1], addr[at + 2], addr[at + 3]])
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::v4_mapped;
    use std::net::Ipv6Addr;

    #[test]
    fn one_source_is_a_v4_address_or_a_v6_64() {
        let v4 = v4_mapped([192, 0, 2, 7]);
        assert!(is_v4(&v4));
        assert_eq!(source(&v4), v4);
        let v6 = "2001:db8:1:2:3:4:5:6".parse::<Ipv6Addr>().unwrap().octets();
        assert!(!is_v4(&v6));
        assert_eq!(
            source(&v6),
            "2001:db8:1:2::".parse::<Ipv6Addr>().unwrap().octets()
        );
        // v4-compatible (::a.b.c.d) is plain IPv6.
        assert!(!is_v4(&"::c000:207".parse::<Ipv6Addr>().unwrap().octets()));
    }
}
