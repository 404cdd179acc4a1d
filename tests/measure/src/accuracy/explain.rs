//! What of captured frames the counters ought to have: all that a tagged socket receives and sends.
//!
//! A user's socket is tagged when its handshake ends, so the three frames of it are not counted, nor what
//! the third one carries. It is gone when the user has acknowledged the node's FIN, or either side has
//! reset; what comes after that is answered by the stack without a socket. What the node still sends of a
//! stream then was on its way when the reset came: only a socket has data to send. And a socket that is busy
//! when a reset arrives takes it up later: the first of what follows the reset, frame by frame, are counted still.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::net::capture::{FIN, Frame, RST, SYN};

/// Bytes and packets, in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) bytes: [u64; 2],
    pub(crate) packets: [u64; 2],
}

impl Totals {
    pub(super) fn add(&mut self, frame: &Frame) {
        let way = usize::from(frame.out);
        self.bytes[way] += frame.bytes;
        self.packets[way] += u64::from(!frame.later);
    }

    /// Bytes of both ways.
    pub(crate) fn all(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// A capture by what became of its frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Explained {
    /// All of it.
    pub(crate) captured: Totals,
    /// Handshakes, with what their last frame carried.
    pub(crate) handshakes: Totals,
    /// After the end of the node's socket.
    pub(crate) late: Totals,
    /// The frames of it that follow a user's reset, in and out: of each connection their bytes, in order.
    reset: [Vec<Vec<u64>>; 2],
    /// What is left: the counters' part.
    pub(crate) counted: Totals,
    /// Handshakes that ended.
    pub(crate) connections: u64,
}

impl Explained {
    /// Bytes and packets, both ways together, that counters have and the capture does not explain, or the
    /// other way round.
    pub(crate) fn off(&self, counters: &Totals) -> (u64, u64) {
        let mut off = (0, 0);
        for way in [0, 1] {
            if self.busy(counters, way).is_none() {
                let [told, counted] = [&self.counted, counters];
                off.0 += told.bytes[way].abs_diff(counted.bytes[way]);
                off.1 += told.packets[way].abs_diff(counted.packets[way]);
            }
        }
        off
    }

    /// What there is to say where counters and capture differ: of in and out, and of the frames behind resets.
    pub(super) fn beside(&self, counters: &Totals) -> String {
        let [told, counted] = [&self.counted, counters].map(|of| (of.bytes, of.packets));
        let behind = self.reset.each_ref().map(|way| {
            let some = way.iter().filter(|frames| !frames.is_empty());
            some.collect::<Vec<_>>()
        });
        format!(
            "counters have {:?} B and {:?} packets (in and out), the capture {:?} and {:?}; behind users' resets came, by \
             connection, frames of {:?} B, and went {:?} B",
            counted.0, counted.1, told.0, told.1, behind[0], behind[1]
        )
    }

    /// Late frames, both ways together, that counters have because a socket was busy.
    pub(crate) fn taken(&self, counters: &Totals) -> u64 {
        let ways = [0, 1].into_iter();
        ways.filter_map(|way| self.busy(counters, way)).sum()
    }

    /// How many late frames of a way must have found their sockets still, for counters to have what they have;
    /// none: that does not add up.
    fn busy(&self, counters: &Totals, way: usize) -> Option<u64> {
        let bytes = counters.bytes[way].checked_sub(self.counted.bytes[way])?;
        let packets = counters.packets[way].checked_sub(self.counted.packets[way])?;
        adds_up(&self.reset[way], bytes, packets).then_some(packets)
    }
}

/// Whether the first frames of these connections, of each as many as you like, are `packets` with `bytes`.
fn adds_up(connections: &[Vec<u64>], bytes: u64, packets: u64) -> bool {
    let mut sums = BTreeSet::from([(0, 0)]);
    for sizes in connections {
        let firsts = sizes.iter().scan((0, 0), |sum: &mut (u64, u64), size| {
            *sum = (sum.0 + size, sum.1 + 1);
            Some(*sum)
        });
        let more: Vec<_> = firsts
            .flat_map(|(b, p)| {
                sums.iter()
                    .map(move |(bytes, packets)| (bytes + b, packets + p))
            })
            .filter(|(b, p)| *b <= bytes && *p <= packets)
            .collect();
        sums.extend(more);
    }
    sums.contains(&(bytes, packets))
}

/// Where a connection stands on the node.
#[derive(Clone, Copy, Default)]
struct Standing {
    established: bool,
    /// The sequence number after the node's FIN.
    fin: Option<u32>,
    /// The user's FIN came together with the last acknowledgement: the node's socket answers it.
    owes: bool,
    gone: bool,
    /// Which of the connections that a user's reset ended it is.
    reset: Option<usize>,
}

/// What a frame is to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Of its handshake.
    Handshake,
    /// To or from the node's socket.
    Socket,
    /// After the socket's end.
    Late,
}

/// Where each connection of a capture stands, by the frames so far.
#[derive(Default)]
pub(super) struct Connections(HashMap<(IpAddr, u16, u16), Standing>);

impl Connections {
    /// What the next frame is.
    pub(super) fn place(&mut self, frame: &Frame) -> Place {
        self.follow(frame).0
    }

    fn follow(&mut self, frame: &Frame) -> (Place, &mut Standing) {
        let (ip, port) = frame.user;
        let its = self.0.entry((ip, port, frame.port)).or_default();
        if frame.flags & SYN != 0 && !frame.out {
            *its = Standing::default();
        }
        if !its.established {
            its.established = !frame.out && frame.flags & (SYN | RST) == 0;
            return (Place::Handshake, its);
        }
        if its.gone && !(frame.out && frame.payload > 0) {
            return (Place::Late, its);
        }
        its.follow(frame);
        (Place::Socket, its)
    }
}

/// Explains the TCP frames of a capture.
pub(crate) fn explain(frames: &[Frame]) -> Explained {
    let mut told = Explained::default();
    let mut connections = Connections::default();
    for frame in frames {
        told.captured.add(frame);
        let (place, its) = connections.follow(frame);
        match place {
            Place::Handshake => {
                told.handshakes.add(frame);
                told.connections += u64::from(its.established);
            }
            Place::Late => {
                told.late.add(frame);
                if let Some(nth) = its.reset {
                    told.reset[usize::from(frame.out)][nth].push(frame.bytes);
                }
            }
            Place::Socket => {
                told.counted.add(frame);
                // The node's own reset leaves no socket behind it.
                if frame.flags & RST != 0 && !frame.out && its.reset.is_none() {
                    its.reset = Some(told.reset[0].len());
                    told.reset.iter_mut().for_each(|way| way.push(Vec::new()));
                }
            }
        }
    }
    told
}

/// Handshakes whose last ACK carried data.
pub(crate) fn with_data(frames: &[Frame]) -> u64 {
    let mut connections = Connections::default();
    let ends_one = |frame: &&Frame| {
        let (place, its) = connections.follow(frame);
        place == Place::Handshake && its.established && frame.payload > 0
    };
    frames.iter().filter(ends_one).count() as u64
}

impl Standing {
    fn follow(&mut self, frame: &Frame) {
        let fin = frame.flags & FIN != 0;
        if frame.flags & RST != 0 {
            self.gone = true;
        } else if frame.out {
            if fin {
                self.fin = Some(frame.seq.wrapping_add(frame.payload).wrapping_add(1));
            }
            self.gone |= self.owes;
        } else if self.fin == Some(frame.ack) {
            self.owes = fin;
            self.gone = !fin;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Explained, Frame, Totals, explain, with_data};
    use crate::net::capture::{ACK, FIN, RST, SYN};

    fn frame(out: bool, flags: u8, seq: u32, ack: u32, payload: u32) -> Frame {
        Frame {
            out,
            user: ([10, 0, 0, 2].into(), 4000),
            port: 20_000,
            bytes: 40 + u64::from(payload),
            later: false,
            proto: 6,
            flags,
            seq,
            ack,
            payload,
        }
    }

    fn handshake() -> Vec<Frame> {
        vec![
            frame(false, SYN, 0, 0, 0),
            frame(true, SYN | ACK, 100, 1, 0),
            frame(false, ACK, 1, 101, 5),
        ]
    }

    #[test]
    fn a_last_ack_with_data_is_told_from_data_behind_it() {
        let [syn, answer, with] = <[Frame; 3]>::try_from(handshake()).unwrap();
        let bare = frame(false, ACK, 1, 101, 0);
        assert_eq!(with_data(&[syn, answer, with, with]), 1);
        assert_eq!(with_data(&[syn, answer, bare, with]), 0);
        assert_eq!(with_data(&[syn, answer, frame(false, RST, 1, 0, 0)]), 0);
    }

    fn packets(told: &Explained) -> [[u64; 2]; 3] {
        [told.handshakes, told.counted, told.late].map(|totals| totals.packets)
    }

    #[test]
    fn a_user_who_ends_first_leaves_nothing_uncounted_but_its_handshake() {
        let mut frames = handshake();
        frames.push(frame(true, ACK, 101, 6, 0));
        frames.push(frame(false, FIN | ACK, 6, 101, 0));
        frames.push(frame(true, FIN | ACK, 101, 7, 0));
        frames.push(frame(false, ACK, 7, 102, 0));
        let told = explain(&frames);
        assert_eq!(packets(&told), [[2, 1], [2, 2], [0, 0]]);
        assert_eq!(told.handshakes.bytes, [40 + 45, 40]);
        assert_eq!(
            told.captured.all(),
            frames.iter().map(|frame| frame.bytes).sum::<u64>()
        );
        assert_eq!(told.connections, 1);
    }

    #[test]
    fn what_follows_the_end_of_the_nodes_socket_is_late() {
        let mut frames = handshake();
        frames.push(frame(true, FIN | ACK, 101, 6, 10));
        // The FIN is after ten bytes.
        frames.push(frame(false, ACK, 6, 112, 0));
        frames.push(frame(false, FIN | ACK, 6, 112, 0));
        frames.push(frame(true, ACK, 112, 7, 0));
        assert_eq!(packets(&explain(&frames)), [[2, 1], [1, 1], [1, 1]]);
        // The user's FIN in the same frame as its acknowledgement finds the socket.
        frames.truncate(4);
        frames.push(frame(false, FIN | ACK, 6, 112, 0));
        frames.push(frame(true, ACK, 112, 7, 0));
        frames.push(frame(false, ACK, 7, 112, 0));
        assert_eq!(packets(&explain(&frames)), [[2, 1], [1, 2], [1, 0]]);
    }

    #[test]
    fn counters_differ_by_whole_late_frames_or_it_is_told() {
        let mut frames = handshake();
        frames.push(frame(false, RST, 6, 0, 0));
        frames.push(frame(false, RST, 6, 0, 0));
        frames.push(frame(false, RST, 6, 0, 20));
        let told = explain(&frames);
        let off = |bytes: u64, packets: u64| {
            let mut counters = told.counted;
            counters.bytes[0] += bytes;
            counters.packets[0] += packets;
            told.off(&counters)
        };
        for (bytes, packets) in [(0, 0), (40, 1), (100, 2)] {
            assert_eq!(off(bytes, packets), (0, 0));
        }
        let mut counters = told.counted;
        assert_eq!(told.taken(&counters), 0);
        counters.bytes[0] += 100;
        counters.packets[0] += 2;
        assert_eq!(told.taken(&counters), 2);
        counters.packets[0] += 1;
        assert_eq!(told.taken(&counters), 0, "not explained by them");
        for (bytes, packets) in [(60, 1), (40, 0), (1, 0), (40, 2), (80, 2), (140, 3)] {
            assert_eq!(
                off(bytes, packets),
                (bytes, packets),
                "not the first ones, or not whole"
            );
        }
        let fewer = Totals::default();
        assert_eq!(told.off(&fewer), (40, 1));
    }

    #[test]
    fn what_comes_after_an_end_without_a_reset_is_never_counted() {
        let mut frames = handshake();
        frames.push(frame(true, FIN | ACK, 101, 6, 0));
        frames.push(frame(false, ACK, 6, 102, 0));
        frames.push(frame(false, FIN | ACK, 6, 102, 0));
        let told = explain(&frames);
        assert_eq!(packets(&told), [[2, 1], [1, 1], [1, 0]]);
        let mut counters = told.counted;
        counters.bytes[0] += 40;
        counters.packets[0] += 1;
        assert_eq!(told.off(&counters), (40, 1));
    }

    #[test]
    fn a_reset_ends_and_a_new_handshake_begins_again() {
        let mut frames = handshake();
        frames.push(frame(false, RST, 6, 0, 0));
        frames.push(frame(true, ACK, 101, 6, 0));
        // Data was on its way.
        frames.push(frame(true, ACK, 101, 6, 1000));
        frames.extend(handshake());
        frames.push(frame(true, ACK, 101, 6, 0));
        let told = explain(&frames);
        assert_eq!(packets(&told), [[4, 2], [1, 2], [0, 1]]);
        assert_eq!(told.connections, 2);
        // Refused: nothing of it was a connection.
        let refused = [frame(false, SYN, 0, 0, 0), frame(true, RST | ACK, 0, 1, 0)];
        let told = explain(&refused);
        assert_eq!(
            (packets(&told), told.connections),
            ([[1, 1], [0, 0], [0, 0]], 0)
        );
    }
}
