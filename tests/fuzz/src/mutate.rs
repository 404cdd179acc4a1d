//! Changes to inputs at random: what libFuzzer does first, without its sight of the code.

use fastrand::Rng;

/// The longest input, bytes.
pub const LONGEST: usize = 4096;

/// Bytes that readers look for: ends, signs, lengths, what breaks text out of its quotes.
const WORDS: [&[u8]; 26] = [
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\n",
    b"\r\n",
    b"\"",
    b"\\u0000",
    b"\\n",
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"9223372036854775807",
    b"65536",
    b"20000-20099",
    b"9999-12-31T23:59:59-23:59",
    b"0000-01-01T00:00:00+23:59",
    b"\xc3\xa9",
    b"\xf0\x9f\x98\x80",
    b"::ffff:127.0.0.1",
    b"[::1]:0",
    b"=",
];

/// One of these inputs, changed in one to eight places.
pub fn next(rng: &mut Rng, inputs: &[Vec<u8>]) -> Vec<u8> {
    let one = |rng: &mut Rng| {
        let place = rng.usize(..inputs.len().max(1));
        inputs.get(place).map_or(&[][..], Vec::as_slice)
    };
    let mut bytes = one(rng).to_vec();
    for _ in 0..rng.usize(1..=8) {
        let from = rng.usize(..=bytes.len());
        let to = (from + rng.usize(..16)).min(bytes.len());
        match rng.u8(..8) {
            0 if !bytes.is_empty() => {
                let at = rng.usize(..bytes.len());
                bytes[at] ^= 1 << rng.u8(..8);
            }
            1 if !bytes.is_empty() => {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            2 => drop(bytes.drain(from..to)),
            3 => {
                let again = bytes[from..to].to_vec();
                bytes.splice(from..from, again);
            }
            4 => bytes.truncate(from),
            5 => {
                let other = one(rng);
                let begin = rng.usize(..=other.len());
                let end = (begin + rng.usize(..64)).min(other.len());
                bytes.splice(from..to, other[begin..end].iter().copied());
            }
            _ => {
                let word = WORDS[rng.usize(..WORDS.len())];
                bytes.splice(from..to, word.iter().copied());
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}
