//! The HTTP request that begins frp's websocket (frp 0.70.1, `pkg/util/net/websocket.go`).

use super::Packet;

/// What the request begins with.
const METHOD: u64 = u64::from_le_bytes(*b"GET /~!f");
const PATH: [u8; 2] = *b"rp";
/// The start of a line that names its origin, and what makes its letters small.
const NAME: u64 = u64::from_le_bytes(*b"\norigin:");
const SMALL: u64 = u64::from_le_bytes([0, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0]);
/// How long [`METHOD`] and [`PATH`] are.
const START: usize = 10;
/// How many bytes of a request are looked at.
pub const LONGEST: usize = super::MAX_OFFSET;

/// Whether the data at `at` begins as frps wants it of a websocket.
#[inline(always)]
pub fn begins(packet: &impl Packet, at: usize) -> bool {
    // One word first: for nearly every packet it is the end.
    packet
        .read(at)
        .is_some_and(|word| u64::from_le_bytes(word) == METHOD)
        && packet.read(at + 8) == Some(PATH)
}

/// What stands at one byte of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing to stop at.
    Other,
    /// An `Origin` header. The first one is what Go's `Header.Get` answers: names are compared
    /// without case, and lines may end with a bare newline.
    Origin,
    /// The end: of the packet, or of the headers, behind which all is the tenant's.
    End,
}

/// What stands at byte `nth` behind the start of the request at `data`. Whoever searches asks for
/// one after the other, in a loop that suits the verifier.
#[inline(always)]
pub fn mark(packet: &impl Packet, data: usize, nth: usize) -> Mark {
    let Some(word) = packet.read(data + START + nth) else {
        return Mark::End;
    };
    let word = u64::from_le_bytes(word);
    if word | SMALL == NAME {
        return Mark::Origin;
    }
    if word & 0xffff == 0x0a0a || word & 0x00ff_ffff == 0x000a_0d0a {
        return Mark::End;
    }
    Mark::Other
}

/// How many characters of an origin's value are asked for.
pub const VALUE: usize = 16;

/// Where the value of the `Origin` header marked at byte `nth` is, when it has [`VALUE`] visible
/// characters at least.
#[inline(always)]
pub fn value(packet: &impl Packet, data: usize, nth: usize) -> Option<usize> {
    let at = data + START + nth + 8;
    let space = packet.read(at) == Some([b' ']);
    let first = u64::from_le_bytes(packet.read(at + 1)?);
    let second = u64::from_le_bytes(packet.read(at + 9)?);
    (space && visible(first) && visible(second)).then_some(at + 1)
}

/// Whether no space, end of line or control character is among eight; all at once, since a branch
/// for each would have the verifier walk every combination.
#[inline(always)]
const fn visible(text: u64) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let low = text.wrapping_sub(ONES * 0x21) & !text;
    // 0x7f and above, below 0x21.
    (text | text.wrapping_add(ONES) | low) & HIGH == 0
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;
    use std::string::String;

    /// As frpc sends it (golang.org/x/net/websocket, `hybiClientHandshake`).
    fn request(headers: &str) -> String {
        format!("GET /~!frp HTTP/1.1\r\nHost: node.example:7000\r\n{headers}\r\n\r\n")
    }

    fn value(request: &str) -> Option<&str> {
        let bytes = request.as_bytes();
        let nth = (0..LONGEST).find(|nth| mark(&bytes, 0, *nth) != Mark::Other)?;
        if mark(&bytes, 0, nth) == Mark::End {
            return None;
        }
        let at = super::value(&bytes, 0, nth)?;
        request.get(at..at + VALUE)
    }

    #[test]
    fn frps_websocket_is_known_by_its_first_bytes() {
        assert!(begins(&request("").as_bytes(), 0));
        for other in [
            "GET /~!fry HTTP/1.1",
            "GET / HTTP/1.1\r\n",
            "GET /~!fr",
            "",
            "\x16\x03\x01",
        ] {
            assert!(!begins(&other.as_bytes(), 0), "{other:?}");
        }
    }

    #[test]
    fn the_first_origin_is_found_as_gos_parser_finds_it() {
        let frpc = "Upgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\
                    Origin: http://node.example:7000\r\nSec-WebSocket-Version: 13";
        assert_eq!(value(&request(frpc)), Some("http://node.exam"));
        for name in ["origin", "ORIGIN", "oRiGiN"] {
            let text = format!("{name}: http://203.0.113.7:7000");
            assert_eq!(value(&request(&text)), Some("http://203.0.113"), "{name}");
        }
        // A line may end with a newline alone.
        let bare = "GET /~!frp HTTP/1.1\nOrigin: http://first.example\nOrigin: http://second\n\n";
        assert_eq!(value(bare), Some("http://first.exa"));
        let two = "origin: http://first.example\r\nOrigin: http://second.example";
        assert_eq!(value(&request(two)), Some("http://first.exa"));
        // Part of another header is no header.
        let within = "X-A: origin: http://other.example\r\nOrigin: http://node.example";
        assert_eq!(value(&request(within)), Some("http://node.exam"));
    }

    #[test]
    fn visible_characters_are_told_from_others() {
        for place in 0..8 {
            for byte in 0..=u8::MAX {
                let mut text = *b"!~!~Az~!";
                text[place] = byte;
                let is = (b'!'..=b'~').contains(&byte);
                assert_eq!(visible(u64::from_le_bytes(text)), is, "{text:?}");
            }
        }
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        for headers in [
            "X-Origin: http://node.example:7000",
            "Origins: http://node.example:7000",
            "Origin : http://node.example:7000",
            "Origin:\thttp://node.example:7000",
            "Origin: http://a.b:7000",
            "Origin: http://a b.example:7000",
            "Upgrade: websocket",
        ] {
            assert_eq!(value(&request(headers)), None, "{headers:?}");
        }
        // What follows the headers is a tenant's data.
        for end in ["\r\n\r\n", "\n\n", "\n\r\n", "\r\n\n"] {
            let text = format!("GET /~!frp HTTP/1.1\r\nA: b{end}\nOrigin: http://node.example\r\n");
            assert_eq!(value(&text), None, "{end:?}");
        }
        // Cut short, or too long.
        let whole = request("Origin: http://node.example:7000");
        let cut = &whole[..whole.find("example:7000").unwrap() + 1];
        assert_eq!(value(cut), None);
        let long = format!("A: {}\r\nOrigin: http://node.example", "a".repeat(LONGEST));
        assert_eq!(value(&request(&long)), None);
    }
}
