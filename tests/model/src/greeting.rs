//! The request that opens a websocket to frps (docs/node.md, How frpc may come): the first sixteen
//! characters of its origin are overwritten by its connection's stamp.

use std::hash::Hasher;

use totoro_api::Reason;
use totoro_ebpf::abi::ControlKey;

use crate::frame::bytes;
use crate::world::Subject;
use crate::{Outcome, Seen, Span, Unsure, World};

/// What the request begins with.
const BEGINS: &[u8; 10] = b"GET /~!frp";
/// How many characters a stamp has.
const STAMP: usize = 16;
/// How many bytes behind the beginning may hold the line of the origin.
const SEARCHED: usize = 1024;
/// How long after it was established a connection greets, ns, and with how many packets at most.
const WITHIN: u64 = 10_000_000_000;
const LOOKS: u16 = 8;

impl World {
    /// What becomes of a segment that opens nothing.
    pub(crate) fn greeting(
        &mut self,
        frame: &[u8],
        seen: &Seen,
        now: Span,
    ) -> Result<Outcome, Unsure> {
        let passes = Ok(Outcome::passes());
        // The eighth byte and the two behind it are read apart, each from where reading is allowed.
        let begins = bytes(frame, seen.data) == Some(*BEGINS.first_chunk::<8>().expect("ten"))
            && bytes(frame, seen.data + 8) == Some([BEGINS[8], BEGINS[9]]);
        if !self.is_control(seen.proto, seen.to_port)
            || !begins
            || seen.extended
            || !self.locals.contains(&seen.to)
        {
            return passes;
        }
        let key = ControlKey {
            remote: seen.from,
            remote_port: seen.from_port,
            pad: [0; 3],
        };
        let Some(control) = self.control.get_mut(&key) else {
            // It overtook its handshake; TCP sends it again.
            let subject = Subject {
                tenant: 0,
                lease: 0,
                remote: seen.from,
                remote_port: seen.from_port,
                port: seen.to_port,
                proto: seen.proto,
            };
            return Ok(self.refuse(&subject, Reason::Unsupported.number(), now));
        };
        if control.looks >= LOOKS || now.ends(control.opened_ns + WITHIN)? {
            return passes;
        }
        control.looks += 1;
        let stamp = stamp(control.cookie, self.config.sketch_seed);
        let rewritten = origin(frame, seen).map(|at| stamped(frame, seen, at, &stamp));
        Ok(Outcome {
            rewritten,
            ..Outcome::passes()
        })
    }
}

/// Where the first sixteen characters of the request's origin are. The first line of that name counts,
/// before the end of the headers.
fn origin(frame: &[u8], seen: &Seen) -> Option<usize> {
    let start = seen.data + BEGINS.len();
    for at in start..start + SEARCHED {
        let line: [u8; 8] = bytes(frame, at)?;
        if line.eq_ignore_ascii_case(b"\norigin:") {
            return value(frame, seen, at + 8);
        }
        if line.starts_with(b"\n\n") || line.starts_with(b"\n\r\n") {
            return None;
        }
    }
    None
}

/// A space, and sixteen visible characters; with what it takes to reckon the checksum anew, which is
/// done in words of four bytes from an even place on.
fn value(frame: &[u8], seen: &Seen, at: usize) -> Option<usize> {
    let [space] = bytes(frame, at)?;
    let text = at + 1;
    let (head, tail): ([u8; 8], [u8; 8]) = (bytes(frame, text)?, bytes(frame, text + 8)?);
    let is_visible = head.iter().chain(&tail).all(u8::is_ascii_graphic);
    let even = text - (text - seen.transport) % 2;
    let last: [u8; 4] = bytes(frame, even + STAMP)?;
    let _: ([u8; 2], [u8; 4]) = (bytes(frame, seen.transport + 16)?, last);
    (space == b' ' && is_visible).then_some(text)
}

/// `t:` and fourteen letters, four bits each, lowest first: the upper 56 bits of the cookie's
/// SipHash-2-4.
fn stamp(cookie: u64, seed: u64) -> [u8; STAMP] {
    #[expect(deprecated, reason = "the standard library's only SipHash-2-4")]
    let mut hasher = std::hash::SipHasher::new_with_keys(seed, !seed);
    hasher.write(&cookie.to_le_bytes());
    let hash = hasher.finish() >> 8;
    let mut text = *b"t:..............";
    for (nth, letter) in text[2..].iter_mut().enumerate() {
        *letter = b'a' + (hash >> (4 * nth) & 15) as u8;
    }
    text
}

/// The frame with the stamp at `at`, its checksum as right or as wrong as before (RFC 1624, equation 3).
fn stamped(frame: &[u8], seen: &Seen, at: usize, stamp: &[u8]) -> Vec<u8> {
    let mut new = frame.to_vec();
    new[at..at + STAMP].copy_from_slice(stamp);
    let even = at - (at - seen.transport) % 2;
    let words = |from: &[u8]| -> Vec<u16> {
        from[even..even + STAMP + 2]
            .chunks(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect()
    };
    let place = seen.transport + 16;
    let old = u16::from_be_bytes([frame[place], frame[place + 1]]);
    let mut sum = u32::from(!old);
    for (old, new) in words(frame).into_iter().zip(words(&new)) {
        sum += u32::from(!old) + u32::from(new);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    new[place..place + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    new
}
