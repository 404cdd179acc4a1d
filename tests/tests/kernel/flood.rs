//! A flood of SYNs to pool ports without a lease, and who sees anything of it behind the shield.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};
use totoro_ebpf::abi::TCP;
use totoro_ebpf::packet::{ACK, RST, SYN};
use totoro_packets::build::packet;

use crate::support::Peer;
use crate::wire::{NODE4, USER4};

/// The ports that it goes to, none of them leased.
const CLOSED: std::ops::RangeInclusive<u16> = 20_001..=20_009;

/// A flood from the user's machine, until it is stopped.
pub(crate) struct Flood {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Flood {
    /// Begins.
    pub(crate) fn start(peer: &Peer) -> Flood {
        let flags = SockFlag::SOCK_CLOEXEC;
        // It belongs to the user's network namespace, whoever writes to it.
        let open = move || socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Raw);
        let socket = peer.run(open).expect("a raw socket");
        let ended = Arc::new(AtomicBool::new(false));
        let its = Arc::clone(&ended);
        let thread = std::thread::spawn(move || send(&socket, &its));
        Flood { ended, thread }
    }

    /// Ends it; how many SYNs left the socket.
    pub(crate) fn stop(self) -> u64 {
        self.ended.store(true, Ordering::SeqCst);
        self.thread.join().expect("the flood did not panic")
    }
}

fn send(socket: &OwnedFd, ended: &AtomicBool) -> u64 {
    let IpAddr::V4(node) = NODE4 else {
        unreachable!("the wire has IPv4")
    };
    let mut sent = 0;
    for (nth, port) in (0u64..).zip(CLOSED.cycle()) {
        if ended.load(Ordering::Relaxed) {
            break;
        }
        let from = 30_000 + (nth % 30_000) as u16;
        let frame = packet(USER4, NODE4, TCP, port).with(|packet| packet.ports.0 = from);
        let bytes = frame.bytes().split_off(14);
        let to = SockaddrIn::from(SocketAddrV4::new(node, 0));
        // A full queue is no end of it.
        sent += u64::from(sendto(socket.as_raw_fd(), &bytes, &to, MsgFlags::empty()).is_ok());
    }
    sent
}

/// What is seen on the node's interfaces, behind XDP.
#[derive(Debug, Default)]
struct Seen {
    syns: AtomicU64,
    resets: AtomicU64,
    accepts: AtomicU64,
    others: AtomicU64,
    ended: AtomicBool,
}

/// A packet socket in the node's namespace.
pub(crate) struct Tap {
    seen: Arc<Seen>,
    thread: JoinHandle<()>,
}

/// What a [`Tap`] has seen of the closed ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Through {
    /// SYNs that came through XDP (TC is behind the tap).
    pub syns: u64,
    /// Answers that refuse: a SYN passed the shield, and met the socket lookup.
    pub resets: u64,
    /// Answers that accept: nothing stopped it.
    pub accepts: u64,
}

/// Nothing came through.
pub(crate) const NOTHING: Through = Through {
    syns: 0,
    resets: 0,
    accepts: 0,
};

impl Tap {
    /// Listens in this thread's network namespace.
    pub(crate) fn start() -> Tap {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::EthAll;
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, flags, protocol).expect("packet socket");
        let patience = nix::sys::time::TimeVal::new(0, 20_000);
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::ReceiveTimeout,
            &patience,
        )
        .expect("timeout");
        let room = 32 << 20;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &room)
            .expect("buffer");
        let seen = Arc::new(Seen::default());
        let its = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 128];
            while !its.ended.load(Ordering::Relaxed) {
                if let Ok(read) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                    its.note(&frame[..read]);
                }
            }
        });
        Tap { seen, thread }
    }

    /// Frames of something else: that it sees anything at all.
    pub(crate) fn others(&self) -> u64 {
        self.seen.others.load(Ordering::SeqCst)
    }

    /// Ends, a moment after the last frame; what it saw.
    pub(crate) fn stop(self) -> Through {
        std::thread::sleep(std::time::Duration::from_millis(100));
        self.seen.ended.store(true, Ordering::SeqCst);
        self.thread.join().expect("the tap did not panic");
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Through {
            syns: of(&self.seen.syns),
            resets: of(&self.seen.resets),
            accepts: of(&self.seen.accepts),
        }
    }
}

impl Seen {
    /// Ethernet, IPv4 without options, TCP; everything else counts as something else.
    fn note(&self, frame: &[u8]) {
        let is_tcp = frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == TCP;
        let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let counter = if !is_tcp || frame[26..30] == Ipv4Addr::LOCALHOST.octets() {
            &self.others
        } else if CLOSED.contains(&port(36)) && frame[47] == SYN {
            &self.syns
        } else if CLOSED.contains(&port(34)) && frame[47] & RST != 0 {
            &self.resets
        } else if CLOSED.contains(&port(34)) && frame[47] == SYN | ACK {
            &self.accepts
        } else {
            &self.others
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Frames that the user's end of the wire had no room for.
pub(crate) fn dropped(peer: &Peer) -> u64 {
    let said = peer.run(|| {
        let mut ip = std::process::Command::new("ip");
        ip.args(["-s", "-j", "link", "show", "dev", "peer0"]);
        ip.output().expect("ip runs").stdout
    });
    let said: serde_json::Value = serde_json::from_slice(&said).expect("JSON");
    said[0]["stats64"]["tx"]["dropped"]
        .as_u64()
        .expect("a count")
}
