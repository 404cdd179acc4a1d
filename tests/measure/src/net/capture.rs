//! What passes an interface of the node, as tcpdump would see it: the truth beside the counters.

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

/// TCP flags (RFC 9293).
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
#[cfg(test)]
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
    /// IP bytes, headers included.
    pub(crate) bytes: u64,
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
    let mut frames = Vec::new();
    let mut buffer = [0; 256];
    loop {
        match packet::receive(socket.as_raw_fd(), &mut buffer) {
            Ok((read, out)) => frames.extend(frame(&buffer[..read], out, ports)),
            Err(_) if stop.load(Ordering::SeqCst) => return frames,
            Err(_) => {}
        }
    }
}

/// Reads a packet's headers; `None` for what is not of these ports. The lab's packets have no extension
/// headers and are no fragments.
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

    use super::{SYN, TCP, frame};

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
