//! What counts as one source: an IPv4 address, or an IPv6 /64; and as one site: an IPv6 /48.

use crate::abi::{Addr, SOURCE_SITES, SourceKey};
use crate::packet::Words;

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

/// The site that an address belongs to, of which one household or company has all sources (RFC 6177): an IPv6 /48. An
/// IPv4 address is its own.
#[inline(always)]
#[must_use]
pub const fn site(addr: &Addr) -> Addr {
    if is_v4(addr) {
        return *addr;
    }
    let [a, b, c, d, e, f, ..] = *addr;
    [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The key under which an address is counted, by kind: of its source, or of its site.
#[inline(always)]
#[must_use]
pub const fn key(addr: &Addr, tenant: u32, kind: u32) -> SourceKey {
    let prefix = if kind == SOURCE_SITES {
        site(addr)
    } else {
        source(addr)
    };
    SourceKey {
        prefix,
        tenant,
        kind,
    }
}

/// Whether no user can have this source address: unspecified, loopback, link-local (the cloud's
/// metadata service among them), multicast and reserved. Off the loopback interface such a source
/// is forged, or a neighbour's that no tunnel is meant for.
#[inline(always)]
#[must_use]
pub const fn never_a_user(addr: &Addr) -> bool {
    if is_v4(addr) {
        let (a, b) = (addr[12], addr[13]);
        return a == 0 || a == 127 || (a == 169 && b == 254) || a >= 224;
    }
    let low = u64_at(addr, 8);
    (u64_at(addr, 0) == 0 && low <= 1)
        || addr[0] == 0xff
        || (addr[0] == 0xfe && addr[1] & 0xc0 == 0x80)
}

/// Whether an address is the node's loopback: `127.0.0.0/8` or `::1`.
#[inline(always)]
#[must_use]
pub const fn is_loopback(addr: &Addr) -> bool {
    if is_v4(addr) {
        addr[12] == 127
    } else {
        u64_at(addr, 0) == 0 && u64_at(addr, 8) == 1
    }
}

/// The second word of v4-mapped addresses, without the address.
const MAPPED: u32 = 0xffff_0000;

/// Whether an address in words is v4-mapped.
#[inline(always)]
#[must_use]
pub const fn is_v4_words([first, second]: Words) -> bool {
    first == 0 && u64::from_le(second) as u32 == MAPPED
}

/// The source that an address in words belongs to.
#[inline(always)]
#[must_use]
pub const fn source_words(addr: Words) -> Words {
    if is_v4_words(addr) {
        addr
    } else {
        [addr[0], 0]
    }
}

/// A source at one port ([`super::pool::place`]), to be mixed: whoever forges a source at a port, his own perhaps,
/// leaves its budgets at all others alone. Above all bits of an IPv4 address; of IPv6 the word is zero: so no source at
/// one port is another at another.
#[inline(always)]
#[must_use]
pub const fn at_port([first, second]: Words, place: u32) -> Words {
    [first, second ^ ((place as u64) << 47).to_be()]
}

/// Mixes a source into 64 bits: rounds of multiply and fold, as wyhash's `mum` step without its
/// 128-bit product. Good enough to spread a sketch for who does not know `seed`.
#[inline(always)]
#[must_use]
pub const fn mix([first, second]: Words, seed: u64) -> u64 {
    let mut x = u64::from_be(first) ^ seed;
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x ^= u64::from_be(second);
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 32;
    // Once more, so that the low bits, which choose the cell, depend on all of the address.
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
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
    use crate::packet::words;
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
        for addr in [v4, v6, [0; 16]] {
            assert_eq!(source_words(words(&addr)), words(&source(&addr)));
        }
        // v4-compatible (::a.b.c.d) is plain IPv6.
        assert!(!is_v4(&"::c000:207".parse::<Ipv6Addr>().unwrap().octets()));
    }

    #[test]
    fn no_source_at_one_port_is_another_at_another() {
        let sources = [
            "192.0.2.7",
            "192.0.2.6",
            "255.255.255.255",
            "2001:db8:1:2::",
            "::",
        ]
        .map(addr);
        let places = [0, 1, 2, 20_000, 65_535, 65_536, 131_071];
        let mut seen = std::collections::HashSet::new();
        for source in sources {
            for place in places {
                assert!(seen.insert(at_port(words(&source), place)), "{place}");
            }
        }
    }

    fn addr(text: &str) -> Addr {
        match text.parse::<std::net::IpAddr>().unwrap() {
            std::net::IpAddr::V4(ip) => v4_mapped(ip.octets()),
            std::net::IpAddr::V6(ip) => ip.octets(),
        }
    }

    #[test]
    fn who_can_be_a_user() {
        for never in [
            "0.1.2.3",
            "127.0.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
        ] {
            assert!(never_a_user(&addr(never)), "{never}");
        }
        for user in [
            "1.2.3.4",
            "10.0.0.1",
            "169.253.0.1",
            "223.255.255.255",
            "::2",
            "fec0::1",
            "fd00::1",
            "2001:db8::1",
        ] {
            assert!(!never_a_user(&addr(user)), "{user}");
        }
        assert!(is_loopback(&addr("127.9.9.9")) && is_loopback(&addr("::1")));
        assert!(!is_loopback(&addr("128.0.0.1")) && !is_loopback(&addr("::2")));
    }

    /// Sources that share a cell under one seed are spread under another, low bits included.
    #[test]
    fn another_seed_is_another_spread() {
        let cell = |nth: u32, seed| {
            let [a, b, c, d] = nth.to_be_bytes();
            mix(words(&v4_mapped([a, b, c, d])), seed) & 8191
        };
        let first = cell(0, 42);
        let together: std::vec::Vec<u32> =
            (0..400_000).filter(|nth| cell(*nth, 42) == first).collect();
        assert!((20..100).contains(&together.len()), "{}", together.len());
        let mut elsewhere: std::vec::Vec<u64> =
            together.iter().map(|nth| cell(*nth, !42)).collect();
        elsewhere.sort_unstable();
        elsewhere.dedup();
        assert!(elsewhere.len() + 3 >= together.len(), "{elsewhere:?}");
    }
}
