//! What the node refused, as the wire has it: beside what the kernel's programs count of refusals.
//!
//! Whom the socket lookup refuses, the stack answers by a reset: for a SYN one that acknowledges it and has
//! no sequence number of its own, which nothing else sends. Any other segment that finds no socket is looked
//! up too, and counted where it is refused; answered it is by a bare reset in any case, refused or not, unless
//! it is a reset itself.

use crate::net::capture::{ACK, Frame, RST, SYN};

/// How many resets there were of both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// In answer to a SYN.
    syns: u64,
    /// In answer to what came to no socket: data or an end of a connection that the node has ended, the end
    /// of a handshake that was answered by a cookie. And users' own, which may have come to none.
    strays: u64,
}

impl Refused {
    /// Of a capture.
    pub(super) fn of(frames: &[Frame]) -> Refused {
        let mut refused = Refused::default();
        for frame in frames.iter().filter(|frame| frame.flags & RST != 0) {
            match (frame.out, frame.flags & (SYN | ACK)) {
                (true, ACK) if frame.seq == 0 => refused.syns += 1,
                (true, 0) | (false, _) => refused.strays += 1,
                // The end of a connection that was there.
                (true, _) => {}
            }
        }
        refused
    }

    /// By how many refusals the kernel's count is off: it must have each SYN's and each connection's that was
    /// one too many, and may have strays'.
    pub(super) fn off(&self, counted: u64, surplus: u64) -> u64 {
        let least = self.syns + surplus;
        let most = least + self.strays;
        least.saturating_sub(counted) + counted.saturating_sub(most)
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, Refused};
    use crate::net::capture::{ACK, FIN, RST, SYN};

    fn frame(out: bool, flags: u8, seq: u32) -> Frame {
        Frame {
            out,
            user: ([10, 0, 0, 2].into(), 4000),
            port: 20_000,
            bytes: 40,
            later: false,
            proto: 6,
            flags,
            seq,
            ack: 1,
            payload: 0,
        }
    }

    #[test]
    fn resets_are_told_apart_by_what_they_answer() {
        let frames = [
            frame(false, SYN, 7),
            frame(true, RST | ACK, 0),
            frame(false, SYN, 7),
            frame(true, RST | ACK, 0),
            // One of a connection that is ended, and what is no reset.
            frame(true, RST | ACK, 900),
            frame(true, SYN | ACK, 0),
            frame(true, FIN | ACK, 0),
            // To a stray segment, and a user's own.
            frame(true, RST, 77),
            frame(false, RST | ACK, 0),
        ];
        let refused = Refused::of(&frames);
        let (syns, strays) = (2, 2);
        assert_eq!(refused, Refused { syns, strays });
        // Two SYNs, a connection one too many, and perhaps the strays.
        for (counted, off) in [(0, 3), (2, 1), (3, 0), (5, 0), (6, 1)] {
            assert_eq!(refused.off(counted, 1), off, "{counted}");
        }
    }
}
