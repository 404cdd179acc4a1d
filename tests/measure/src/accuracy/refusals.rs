//! What the node refused, as the wire has it: beside what the kernel's programs count of refusals.
//!
//! Whom the socket lookup refuses, the stack answers by a reset: for a SYN one that acknowledges it and has
//! no sequence number of its own, which nothing else sends. Any other segment that finds no socket is looked
//! up too, and counted where it is refused; answered it is by a bare reset in any case, refused or not, unless
//! it is a reset itself.

use super::explain::{Connections, Place};
use crate::net::capture::{ACK, Frame, RST, SYN};

/// How many resets there were of both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    /// In answer to a SYN.
    pub(super) syns: u64,
    /// In answer to what came to no socket: data or an end of a connection that the node has ended, the end
    /// of a handshake that was answered by a cookie. And users' own that came to none: before a handshake's end,
    /// or behind the end of the node's socket.
    pub(super) strays: u64,
}

impl Refused {
    /// Of a capture.
    pub(super) fn of(frames: &[Frame]) -> Refused {
        let mut refused = Refused::default();
        let mut connections = Connections::default();
        for frame in frames {
            let place = connections.place(frame);
            if frame.flags & RST == 0 {
                continue;
            }
            match (frame.out, frame.flags & (SYN | ACK)) {
                (true, ACK) if frame.seq == 0 => refused.syns += 1,
                (true, 0) => refused.strays += 1,
                (false, _) if place != Place::Socket => refused.strays += 1,
                // The end of a connection that was there.
                _ => {}
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

    /// How many of the counted refusals are strays'.
    pub(super) fn of_strays(&self, counted: u64, surplus: u64) -> u64 {
        counted.saturating_sub(self.syns + surplus).min(self.strays)
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
        for (counted, off, of_strays) in [
            (0, 3, 0),
            (2, 1, 0),
            (3, 0, 0),
            (4, 0, 1),
            (5, 0, 2),
            (6, 1, 2),
        ] {
            assert_eq!(refused.off(counted, 1), off, "{counted}");
            assert_eq!(refused.of_strays(counted, 1), of_strays, "{counted}");
        }
    }

    #[test]
    fn a_users_reset_of_a_connection_that_is_there_is_no_stray() {
        let handshake = [
            frame(false, SYN, 7),
            frame(true, SYN | ACK, 900),
            frame(false, ACK, 8),
        ];
        let strays = |more: &[Frame]| Refused::of(&[&handshake, more].concat()).strays;
        let reset = frame(false, RST, 8);
        assert_eq!(strays(&[reset]), 0);
        assert_eq!(strays(&[reset, reset]), 1, "the first one ended it");
        // The node ended it, or was asked for nothing but half a handshake.
        assert_eq!(strays(&[frame(true, RST | ACK, 901), reset]), 1);
        assert_eq!(Refused::of(&[handshake[0], handshake[1], reset]).strays, 1);
    }
}
