//! Many connects at once, some with data in the last ACK of their handshake.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, recv, send, setsockopt,
    socket, sockopt,
};

use nix::{setsockopt_impl, sockopt_impl};

use crate::lab::Netns;

sockopt_impl!(
    /// Without it the kernel holds the handshake's last ACK back until there is data to go with.
    QuickAck, SetOnly, libc::IPPROTO_TCP, libc::TCP_QUICKACK, bool
);

/// One user of a burst.
#[derive(Debug)]
pub struct One {
    socket: OwnedFd,
    /// Bytes that came from the other side.
    pub received: usize,
    /// Refused, or ended.
    pub over: bool,
    /// Its handshake was completed, as far as the user can tell.
    pub connected: bool,
    sent: bool,
}

/// A burst that is under way; dropping it closes every socket.
#[derive(Debug)]
pub struct Burst(pub Vec<One>);

impl Burst {
    /// Starts `count` connects from `ns`, without waiting in between. Those whose number `delays`
    /// hold the last ACK of their handshake back until their first word goes with it: until then
    /// the node has counted nobody, so all of them are admitted, and the surplus must be muted.
    /// The handshakes of the others are over at once, and the later ones are refused.
    ///
    /// # Errors
    /// Sockets can't be had.
    pub fn start(
        ns: &Netns,
        to: SocketAddr,
        count: usize,
        delays: fn(usize) -> bool,
    ) -> Result<Burst> {
        ns.run(|| Burst::start_here(to, count, delays))
    }

    /// The same, from where the calling thread is.
    ///
    /// # Errors
    /// Sockets can't be had.
    pub fn start_here(to: SocketAddr, count: usize, delays: fn(usize) -> bool) -> Result<Burst> {
        let family = if to.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let address = SockaddrStorage::from(to);
        let mut all = Vec::with_capacity(count);
        for index in 0..count {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(family, SockType::Stream, flags, None).context("make a socket")?;
            setsockopt(&socket, sockopt::TcpNoDelay, &true).context("set TCP_NODELAY")?;
            if delays(index) {
                setsockopt(&socket, QuickAck, &false).context("set TCP_QUICKACK")?;
            }
            all.push(One {
                socket,
                received: 0,
                over: false,
                connected: false,
                sent: false,
            });
        }
        for one in &mut all {
            match connect(one.socket.as_raw_fd(), &address) {
                Ok(()) | Err(Errno::EINPROGRESS) => {}
                Err(Errno::ECONNREFUSED) => one.over = true,
                Err(error) => return Err(error).context("connect"),
            }
        }
        Ok(Burst(all))
    }

    /// Has everyone who is connected say one word, and reads what comes, for `time`.
    ///
    /// # Errors
    /// poll fails.
    pub fn drive(&mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        let mut buffer = [0; 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let mut live: Vec<&mut One> = self.0.iter_mut().filter(|one| !one.over).collect();
            if live.is_empty() {
                return Ok(());
            }
            let ready: Vec<bool> = {
                let interest = |one: &One| {
                    if one.sent {
                        PollFlags::POLLIN
                    } else {
                        PollFlags::POLLIN | PollFlags::POLLOUT
                    }
                };
                let mut fds: Vec<PollFd> = live
                    .iter()
                    .map(|one| PollFd::new(one.socket.as_fd(), interest(one)))
                    .collect();
                let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::from(100_u8));
                poll(&mut fds, patience).context("poll")?;
                fds.iter().map(|fd| fd.any().unwrap_or(false)).collect()
            };
            for (one, _) in live.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                one.step(&mut buffer);
            }
        }
    }

    /// How many got a byte from the other side.
    #[must_use]
    pub fn served(&self) -> usize {
        self.0.iter().filter(|one| one.received > 0).count()
    }

    /// How many saw their handshake completed.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.0.iter().filter(|one| one.connected).count()
    }

    /// How many have not ended.
    #[must_use]
    pub fn live(&self) -> usize {
        self.0.iter().filter(|one| !one.over).count()
    }
}

impl One {
    fn step(&mut self, buffer: &mut [u8]) {
        let fd = self.socket.as_raw_fd();
        if !self.sent {
            match send(fd, b"word", MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(_) => (self.sent, self.connected) = (true, true),
                Err(Errno::EAGAIN) => {}
                Err(_) => self.over = true,
            }
        }
        match recv(fd, buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => self.over = true,
            Ok(read) => self.received += read,
            Err(Errno::EAGAIN) => {}
            Err(_) => self.over = true,
        }
    }
}
