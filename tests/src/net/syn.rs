//! A flood of TCP SYNs at a stated rate, from a raw socket on one processor.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::lab::{self, Netns};

/// How often what is due is sent.
const TURN: Duration = Duration::from_millis(1);
/// Forged sources are of this network (RFC 2544's, which is nobody's).
const NOBODYS: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const NOBODYS_HOSTS: u32 = 1 << 17;

/// Where SYNs come from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// One address, many ports.
    Own(Ipv4Addr),
    /// As many addresses as there are.
    Forged,
}

/// Sends `rate` SYNs a second until told to stop; how many per second the socket took in truth.
///
/// # Errors
/// No raw socket.
pub fn flood(
    ns: &Netns,
    to: SocketAddrV4,
    source: Source,
    rate: u32,
    stop: &AtomicBool,
) -> Result<f64> {
    ns.run(|| {
        lab::keep_to(0)?;
        let fd = socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Raw,
        )
        .context("a raw socket")?;
        let target = SockaddrIn::from(SocketAddrV4::new(*to.ip(), 0));
        // Any odd number goes through all of them.
        let mut state = 0x9e37_79b9u32;
        let (sent, took) = paced(rate, stop, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let from = match source {
                Source::Own(ip) => ip,
                Source::Forged => forged(state >> 8),
            };
            let packet = packet(SocketAddrV4::new(from, 1024 + (state >> 16) as u16 / 2), to);
            sendto(fd.as_raw_fd(), &packet, &target, MsgFlags::MSG_DONTWAIT).is_ok()
        });
        Ok(f64::from(sent) / took.as_secs_f64())
    })
}

/// Sends so often a second until told to stop; how often it was taken, in which time. A full queue is part of a
/// flood, and what it did not take was not sent.
fn paced(rate: u32, stop: &AtomicBool, mut send: impl FnMut() -> bool) -> (u32, Duration) {
    let begun = Instant::now();
    let (mut tried, mut sent) = (0u32, 0u32);
    while !stop.load(Ordering::SeqCst) {
        let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        while tried < due {
            sent += u32::from(send());
            tried += 1;
        }
        std::thread::sleep(TURN);
    }
    (sent, begun.elapsed())
}

/// One of the forged sources.
#[must_use]
pub fn forged(nth: u32) -> Ipv4Addr {
    Ipv4Addr::from(NOBODYS + nth % NOBODYS_HOSTS)
}

/// An IPv4 packet with a TCP SYN.
#[must_use]
pub fn packet(from: SocketAddrV4, to: SocketAddrV4) -> [u8; 40] {
    let mut packet = [0u8; 40];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&40u16.to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..28].copy_from_slice(&u32::from(from.port()).to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = 2;
    packet[34..36].copy_from_slice(&64_240u16.to_be_bytes());
    // The pseudo-header: both addresses, the protocol, the length. The kernel fills in IP's own sum.
    let sum = sum(&packet[12..40]) + 6 + 20;
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[36..38].copy_from_slice(&folded.to_be_bytes());
    packet
}

fn sum(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2);
    pairs
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_was_not_sent() {
        let (stop, mut tried) = (AtomicBool::new(false), 0);
        let (sent, _) = paced(100_000, &stop, || {
            tried += 1;
            stop.store(tried >= 1_000, Ordering::SeqCst);
            tried % 3 == 0
        });
        assert_eq!(sent, tried / 3);
    }
}
