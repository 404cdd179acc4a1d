//! What the filter writes over the origin of a websocket's request, so that frps, which tells the
//! plugin this text in place of frpc's address, names the connection. Only the client of a
//! connection could learn its stamp, and no one can make another's.

/// How many characters it takes: a mark, and 56 bits in letters.
pub const LEN: usize = 2 + LETTERS;
/// Letters of a stamp, four bits each: sixteen in a row, where base32's two ranges would have the
/// verifier walk each combination of them.
const LETTERS: usize = 14;
/// A scheme and no authority: Go's `url.ParseRequestURI` keeps the rest as it is.
const MARK: &str = "t:";

/// A connection's stamp: the upper bits of SipHash-2-4 of its socket's cookie (reference: veorq/SipHash), for who
/// does not know `seed` a random number.
#[inline(always)]
#[must_use]
pub const fn of(cookie: u64, seed: u64) -> u64 {
    let mut state = [
        seed ^ 0x736f_6d65_7073_6575,
        !seed ^ 0x646f_7261_6e64_6f6d,
        seed ^ 0x6c79_6765_6e65_7261,
        !seed ^ 0x7465_6462_7974_6573,
    ];
    // The message is one word, and a last one with its length.
    state[3] ^= cookie;
    state = round(round(state));
    state[0] ^= cookie;
    state[3] ^= 8 << 56;
    state = round(round(state));
    state[0] ^= 8 << 56;
    state[2] ^= 0xff;
    state = round(round(round(round(state))));
    (state[0] ^ state[1] ^ state[2] ^ state[3]) >> (64 - 4 * LETTERS)
}

#[inline(always)]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

/// As it is written, in two little-endian words: in registers, where bytes would take the stack.
#[inline(always)]
#[must_use]
pub const fn words(stamp: u64) -> (u64, u64) {
    let [t, colon] = *b"t:";
    let (mut first, mut second) = (t as u64 | (colon as u64) << 8, 0);
    let mut nth = 0;
    while nth < LETTERS {
        let letter = b'a' as u64 + (stamp >> (4 * nth) & 15);
        if nth < 6 {
            first |= letter << (8 * (nth + 2));
        } else {
            second |= letter << (8 * (nth - 6));
        }
        nth += 1;
    }
    (first, second)
}

/// The same in bytes.
#[must_use]
pub fn text(stamp: u64) -> [u8; LEN] {
    let (first, second) = words(stamp);
    let mut text = [0; LEN];
    text[..8].copy_from_slice(&first.to_le_bytes());
    text[8..].copy_from_slice(&second.to_le_bytes());
    text
}

/// The stamp that a client address of frps's begins with; behind it is what was left of the origin.
#[must_use]
pub fn parse(client_address: &str) -> Option<u64> {
    let letters = client_address.strip_prefix(MARK)?.as_bytes();
    let mut stamp = 0;
    for letter in letters.get(..LETTERS)?.iter().rev() {
        let bits = match letter {
            b'a'..=b'p' => letter - b'a',
            _ => return None,
        };
        stamp = stamp << 4 | u64::from(bits);
    }
    Some(stamp)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::hash::Hasher;
    use std::format;

    #[test]
    #[expect(deprecated, reason = "the standard library's only SipHash-2-4")]
    fn it_is_the_standard_librarys_siphash() {
        for (cookie, seed) in [(0, 0), (1, 42), (u64::MAX, 7), (0x1234_5678, u64::MAX)] {
            let mut hasher = core::hash::SipHasher::new_with_keys(seed, !seed);
            hasher.write(&cookie.to_le_bytes());
            assert_eq!(of(cookie, seed), hasher.finish() >> 8, "{cookie} {seed}");
        }
    }

    #[test]
    fn it_comes_back_from_its_text_whatever_follows() {
        for stamp in [0, 1, 15, 16, u64::MAX >> 8, of(4097, 9)] {
            let text = text(stamp);
            let text = core::str::from_utf8(&text).unwrap();
            assert_eq!(parse(text), Some(stamp), "{text}");
            for rest in ["1:7000", "ample:7000", "]:7000", "\u{e9}"] {
                assert_eq!(parse(&format!("{text}{rest}")), Some(stamp), "{rest}");
            }
        }
    }

    #[test]
    fn nothing_else_is_a_stamp() {
        for other in [
            "",
            "t:",
            "t:aaaaaaaaaaaaa",
            "t:aaaaaaaaaaaaaA",
            "t:aaaaaaaaaaaaa1",
            "t:aaaaaaaaaaaaaq",
            "t:aaaaaaaaaaaa\u{e9}",
            "T:aaaaaaaaaaaaaa",
            "http://node.example:7000",
            "203.0.113.7:7000",
            "[::1]:7000",
        ] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }
}
