//! What passes an interface of the node, as tcpdump would see it: the truth beside the counters.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::Socket;
use totoro_ebpf::abi::{TCP, UDP};
use totoro_tests::lab::Netns;

use super::packet;

/// IPv6's fragment header (RFC 8200).
const FRAGMENT: u8 = 44;
/// TCP flags (RFC 9293).
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A frame of a pool port's. One that the device cuts into segments is one frame, as it is one packet to
/// the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Whether the node sent it.
    pub(crate) out: bool,
    /// The user's end.
    pub(crate) user: (IpAddr, u16),
    /// The pool port.
    pub(crate) port: u16,
    /// IP bytes, headers included; of a fragment without what fragments have more than the whole.
    pub(crate) bytes: u64,
    /// Whether it is a fragment behind the first: bytes of a packet, and none of its own.
    pub(crate) later: bool,
    /// [`TCP`] or [`UDP`].
    pub(crate) proto: u8,
    /// TCP's flags.
    pub(crate) flags: u8,
    /// TCP's sequence number.
    pub(crate) seq: u32,
    /// TCP's acknowledgement.
    pub(crate) ack: u32,
    /// What it carries, bytes.
    pub(crate) payload: u32,
}

/// A capture that is under way.
pub(crate) struct Capture {
    socket: Arc<Socket>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Frame>>,
}

impl Capture {
    /// Begins on an interface; frames to and from these ports are kept.
    ///
    /// # Errors
    /// No packet socket can be had.
    pub(crate) fn start(ns: &Netns, interface: &str, ports: &[u16]) -> Result<Capture> {
        let socket = Arc::new(ns.run(|| packet::open(interface))?);
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (its, end, ports) = (Arc::clone(&socket), Arc::clone(&stop), ports.to_vec());
        let thread = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || read(&its, &ports, &end))
            .context("a thread")?;
        Ok(Capture {
            socket,
            stop,
            thread,
        })
    }

    /// Ends it, once nothing came for a tenth of a second; the frames in their order.
    ///
    /// # Errors
    /// A frame was lost to the capture, which is no truth then.
    pub(crate) fn finish(self) -> Result<Vec<Frame>> {
        self.stop.store(true, Ordering::SeqCst);
        let frames = self.thread.join();
        let frames = frames.ok().context("the capture panicked")?;
        let (_, lost) = packet::statistics(&self.socket).context("the capture's statistics")?;
        ensure!(lost == 0, "the capture lost {lost} frames");
        Ok(frames)
    }
}

fn read(socket: &Socket, ports: &[u16], stop: &AtomicBool) -> Vec<Frame> {
    let mut reader = Reader::new(ports);
    let mut frames = Vec::new();
    let mut buffer = [0; 256];
    loop {
        match packet::receive(socket.as_raw_fd(), &mut buffer) {
            Ok((read, out)) => frames.extend(reader.read(&buffer[..read], out)),
            Err(_) if stop.load(Ordering::SeqCst) => return frames,
            Err(_) => {}
        }
    }
}

/// Reads what is of some ports; fragments behind a first one have none, and are told by what they share.
struct Reader<'a> {
    ports: &'a [u16],
    fragments: HashMap<Fragments, Frame>,
}

/// What fragments of one packet share: source, destination, and their number.
type Fragments = ([IpAddr; 2], u32);

impl Reader<'_> {
    fn new(ports: &[u16]) -> Reader<'_> {
        let fragments = HashMap::new();
        Reader { ports, fragments }
    }

    fn read(&mut self, packet: &[u8], out: bool) -> Option<Frame> {
        let Some(fragment) = fragment(packet) else {
            return frame(packet, out, self.ports);
        };
        if fragment.first {
            let mut frame = frame(&fragment.packet, out, self.ports)?;
            frame.bytes = fragment.bytes;
            self.fragments.insert(fragment.of, frame);
            return Some(frame);
        }
        // In a lab they come in their order.
        let first = self.fragments.get(&fragment.of)?;
        Some(Frame {
            bytes: fragment.bytes,
            later: true,
            ..*first
        })
    }
}

/// A fragment.
struct Piece {
    of: Fragments,
    first: bool,
    /// What it has of the whole packet's bytes.
    bytes: u64,
    /// Without the header that makes it a fragment, so that a first one is read as the whole would be.
    packet: Vec<u8>,
}

/// Reads a fragment's headers; `None` for what is none.
fn fragment(packet: &[u8]) -> Option<Piece> {
    let word = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    if packet.first()? >> 4 == 4 {
        let place = word(6)? & 0x3fff;
        let first = place & 0x1fff == 0;
        let ends = [12, 16].map(|at| {
            let bytes: Option<[u8; 4]> = packet.get(at..at + 4).and_then(|of| of.try_into().ok());
            bytes.map(IpAddr::from)
        });
        let header = u64::from(packet[0] & 15) * 4;
        return (place != 0).then_some(Piece {
            of: ([ends[0]?, ends[1]?], word(4)?.into()),
            first,
            bytes: u64::from(word(2)?) - if first { 0 } else { header },
            packet: packet.to_vec(),
        });
    }
    if *packet.get(6)? != FRAGMENT {
        return None;
    }
    let ends = [8, 24].map(|at| {
        let bytes: Option<[u8; 16]> = packet.get(at..at + 16).and_then(|of| of.try_into().ok());
        bytes.map(IpAddr::from)
    });
    let first = word(42)? & 0xfff8 == 0;
    let number = (u32::from(word(44)?) << 16) | u32::from(word(46)?);
    let carried = u64::from(word(4)?).checked_sub(8)?;
    let mut whole = packet.to_vec();
    whole[6] = packet[40];
    whole.drain(40..48);
    Some(Piece {
        of: ([ends[0]?, ends[1]?], number),
        first,
        bytes: carried + if first { 40 } else { 0 },
        packet: whole,
    })
}

/// Reads a packet's headers; `None` for what is not of these ports. The lab's packets have no extension
/// headers.
fn frame(packet: &[u8], out: bool, ports: &[u16]) -> Option<Frame> {
    let word = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(packet.get(at..at + 4)?.try_into().ok()?));
    let (proto, header, bytes, ends) = match packet.first()? >> 4 {
        4 => {
            let address = |at| Some(IpAddr::V4(Ipv4Addr::from(long(at)?)));
            let header = usize::from(packet[0] & 15) * 4;
            let ends = [address(12)?, address(16)?];
            (*packet.get(9)?, header, u64::from(word(2)?), ends)
        }
        6 => {
            let address = |at: usize| {
                let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(IpAddr::V6(Ipv6Addr::from(bytes)))
            };
            let ends = [address(8)?, address(24)?];
            (*packet.get(6)?, 40, u64::from(word(4)?) + 40, ends)
        }
        _ => return None,
    };
    let [source, destination] = [word(header)?, word(header + 2)?];
    let (user, port) = if out {
        ((ends[1], destination), source)
    } else {
        ((ends[0], source), destination)
    };
    if !ports.contains(&port) {
        return None;
    }
    let mut frame = Frame {
        out,
        user,
        port,
        bytes,
        later: false,
        proto,
        flags: 0,
        seq: 0,
        ack: 0,
        payload: 0,
    };
    let above = match proto {
        UDP => 8,
        TCP => {
            frame.seq = long(header + 4)?;
            frame.ack = long(header + 8)?;
            frame.flags = *packet.get(header + 13)?;
            u64::from(packet.get(header + 12)? >> 4) * 4
        }
        _ => return None,
    };
    frame.payload = u32::try_from(bytes.checked_sub(header as u64 + above)?).ok()?;
    Some(frame)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV4;

    use totoro_tests::net::syn;

    use super::{Reader, SYN, TCP, UDP, frame};

    /// A datagram of 1,600 bytes with its header, in two fragments.
    fn fragments(v6: bool) -> [Vec<u8>; 2] {
        let ports = [0x0f, 0xa0, 0x4e, 0x20, 0x06, 0x40, 0, 0];
        [(0_u16, 1_u16, 1200_u16), (1200, 0, 400)].map(|(at, more, carried)| {
            let mut packet = if v6 {
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend((8 + carried).to_be_bytes());
                packet.extend([super::FRAGMENT, 64]);
                packet.extend([1; 16]);
                packet.extend([2; 16]);
                packet.extend([UDP, 0]);
                packet.extend((at | more).to_be_bytes());
                packet.extend([0, 0, 0, 9]);
                packet
            } else {
                let mut packet = vec![0x45, 0];
                packet.extend((20 + carried).to_be_bytes());
                packet.extend([0, 9]);
                packet.extend(((at / 8) | (more << 13)).to_be_bytes());
                packet.extend([64, UDP, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
                packet
            };
            packet.extend(if at == 0 { ports } else { [7; 8] });
            packet
        })
    }

    #[test]
    fn fragments_are_one_packet() {
        for (v6, headers) in [(false, 20), (true, 40)] {
            let [first, later] = fragments(v6);
            let mut reader = Reader::new(&[20_000]);
            assert_eq!(reader.read(&later, false), None, "before its first");
            let read = [&first, &later].map(|one| reader.read(one, false).expect("ours"));
            assert_eq!(read.map(|one| one.later), [false, true]);
            assert_eq!(read.map(|one| one.port), [20_000; 2]);
            assert_eq!(read.map(|one| one.proto), [UDP; 2]);
            assert_eq!(read[0].bytes + read[1].bytes, headers + 1600);
            let mut strangers = Reader::new(&[20_001]);
            assert_eq!(strangers.read(&first, false), None);
            assert_eq!(strangers.read(&later, false), None);
        }
    }

    #[test]
    fn headers_are_read_and_strangers_are_not() {
        let user = SocketAddrV4::new([10, 0, 0, 2].into(), 4000);
        let node = SocketAddrV4::new([10, 0, 0, 1].into(), 20_000);
        let packet = syn::packet(user, node);
        let read = frame(&packet, false, &[20_000]).expect("ours");
        assert_eq!(
            (read.user, read.port),
            ((user.ip().to_owned().into(), 4000), 20_000)
        );
        assert_eq!(
            (read.proto, read.flags, read.bytes, read.payload),
            (TCP, SYN, 40, 0)
        );
        // Seen from the other side it would be the node that sends.
        assert_eq!(frame(&packet, true, &[20_000]), None);
        assert_eq!(
            frame(&packet, true, &[4000]).map(|frame| frame.port),
            Some(4000)
        );
        for length in 0..packet.len() {
            // The last bytes are the checksum, which is not read.
            let cut = frame(&packet[..length], false, &[20_000]);
            assert!(cut.is_none() || length > 33, "{length}");
        }
    }
}
