//! Many users at once, each with its own way to end, who hold on until all of them know where they stand.
//!
//! The service greets, so a user was admitted exactly when a byte came. What a user knows is a lower bound
//! of what the node had: it hears after it was counted, and it ends before that is seen.

use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use totoro_tests::lab::Netns;
use totoro_tests::net::burst::QuickAck;
use totoro_tests::net::syn;

use super::kinds::{KINDS, Kind, Mix};
use super::service::WORD;
use super::spans::Span;
use super::truth::source;

/// Where a user stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its handshake, or its first byte, is waited for.
    Waiting,
    /// A byte came.
    Admitted,
    /// The answer to its SYN was a reset.
    Refused,
    /// Ended by the other side after the handshake.
    Ended,
    /// It has ended by itself.
    Left,
}

/// One user.
struct User {
    kind: Kind,
    /// To a limit: an IPv4 address, or an IPv6 /64.
    source: IpAddr,
    stream: Option<TcpStream>,
    word: [u8; WORD],
    asked: bool,
    heard: Option<Instant>,
    echoed: usize,
    standing: Standing,
    left: Option<Instant>,
}

/// A crowd; dropping it closes every socket.
pub(crate) struct Crowd(Vec<User>);

/// Where a crowd comes from, and goes to.
#[derive(Clone)]
pub(crate) struct Way {
    /// The users' machine.
    pub(crate) ns: Netns,
    /// Their IPv4 addresses.
    pub(crate) sources: Vec<Ipv4Addr>,
    /// The node's addresses, taken in turn.
    pub(crate) doors: Vec<IpAddr>,
    /// The pool port.
    pub(crate) port: u16,
}

/// What became of a crowd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Connects that were made, half-open ones not among them.
    pub(crate) connects: u64,
    /// A byte came.
    pub(crate) admitted: u64,
    /// The SYN was answered by a reset.
    pub(crate) refused: u64,
    /// Established, and ended by the node without a byte.
    pub(crate) muted: u64,
    /// A byte came, and the connection was ended by the node all the same.
    pub(crate) cut: u64,
    /// Nothing was known when patience ended.
    pub(crate) unknown: u64,
    /// Of the admitted those that have ended in their own way, by their kind.
    pub(crate) ended: [u64; KINDS.len()],
}

impl Outcome {
    /// What became of several crowds together.
    pub(crate) fn of(crowds: &[Crowd]) -> Outcome {
        let mut all = Outcome::default();
        for one in crowds.iter().map(Crowd::outcome) {
            all.connects += one.connects;
            all.admitted += one.admitted;
            all.refused += one.refused;
            all.muted += one.muted;
            all.cut += one.cut;
            all.unknown += one.unknown;
            for (all, one) in all.ended.iter_mut().zip(one.ended) {
                *all += one;
            }
        }
        all
    }
}

impl Crowd {
    /// Starts `count` users as fast as two processors do. `name` makes their words differ from other
    /// crowds', and their kinds' order.
    ///
    /// # Errors
    /// Sockets can't be had.
    pub(crate) fn start(way: &Way, count: usize, mix: Mix, name: u32) -> Result<Crowd> {
        let kinds = mix.kinds(count, name).into_iter().enumerate();
        let users = kinds.map(|(nth, kind)| User::new(way, nth, kind, name));
        let mut users = way.ns.run(|| users.collect::<Result<Vec<_>>>())?;
        let (one, other) = users.split_at_mut(count / 2);
        std::thread::scope(|scope| {
            let half = scope.spawn(|| connect_all(way, one, 0));
            connect_all(way, other, count / 2)?;
            half.join().ok().context("a connecting thread panicked")?
        })?;
        Ok(Crowd(users))
    }

    /// Has everyone who may speak speak, and reads, until all know where they stand.
    ///
    /// # Errors
    /// poll fails.
    pub(crate) fn settle(&mut self, patience: Duration) -> Result<()> {
        self.drive(patience, |user| match user.standing {
            Standing::Waiting => true,
            Standing::Admitted => user.kind != Kind::Idle && user.echoed < WORD,
            _ => false,
        })
    }

    /// Has everyone who was admitted end in its own way, but for the first `skip`, and of the others all but each
    /// `step`th.
    pub(crate) fn leave(&mut self, skip: usize, step: usize) {
        let admitted = |user: &&mut User| user.standing == Standing::Admitted;
        let admitted = self.0.iter_mut().filter(admitted);
        for user in admitted.skip(skip).step_by(step) {
            user.left = Some(Instant::now());
            user.standing = Standing::Left;
            let Some(stream) = user.stream.take() else {
                continue;
            };
            match user.kind {
                Kind::Normal => {
                    stream.shutdown(std::net::Shutdown::Write).ok();
                    // Its other half is closed with the crowd.
                    user.stream = Some(stream);
                }
                Kind::Reset => {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
                }
                _ => {}
            }
        }
    }

    /// Looks again at those who are still there: for as long as `time`.
    ///
    /// # Errors
    /// poll fails.
    pub(crate) fn hold(&mut self, time: Duration) -> Result<()> {
        self.drive(time, |user| {
            matches!(user.standing, Standing::Waiting | Standing::Admitted)
        })
    }

    /// Reads while anybody is `wanted`, at most for `time`.
    fn drive(&mut self, time: Duration, wanted: fn(&User) -> bool) -> Result<()> {
        let deadline = Instant::now() + time;
        loop {
            let mut wanted: Vec<&mut User> =
                self.0.iter_mut().filter(|user| wanted(user)).collect();
            let left = deadline.saturating_duration_since(Instant::now());
            if wanted.is_empty() || left.is_zero() {
                return Ok(());
            }
            let ready: Vec<bool> = {
                let mut fds: Vec<PollFd> = wanted
                    .iter()
                    .filter_map(|user| {
                        let stream = user.stream.as_ref()?;
                        let mut events = PollFlags::POLLIN;
                        events.set(PollFlags::POLLOUT, !user.asked);
                        Some(PollFd::new(stream.as_fd(), events))
                    })
                    .collect();
                let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::from(100_u8));
                poll(&mut fds, patience).context("poll")?;
                fds.iter().map(|fd| fd.any().unwrap_or(false)).collect()
            };
            for (user, _) in wanted.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
                user.step();
            }
        }
    }

    /// What became of it.
    pub(crate) fn outcome(&self) -> Outcome {
        let count =
            |good: &dyn Fn(&User) -> bool| self.0.iter().filter(|user| good(user)).count() as u64;
        let ended = |user: &User| user.standing == Standing::Ended;
        Outcome {
            connects: self.0.len() as u64,
            admitted: count(&|user| user.heard.is_some()),
            refused: count(&|user| user.standing == Standing::Refused),
            muted: count(&|user| ended(user) && user.heard.is_none()),
            cut: count(&|user| ended(user) && user.heard.is_some()),
            unknown: count(&|user| user.standing == Standing::Waiting),
            ended: KINDS
                .map(|kind| count(&|user| user.standing == Standing::Left && user.kind == kind)),
        }
    }

    /// How many were admitted and have not ended.
    pub(crate) fn here(&self) -> u64 {
        let users = self.0.iter();
        let here = users.filter(|user| user.standing == Standing::Admitted);
        here.count() as u64
    }

    /// How many of these words are from users who were not admitted.
    pub(crate) fn foreign(&self, words: &HashSet<[u8; WORD]>) -> u64 {
        let muted = self.0.iter().filter(|user| user.heard.is_none());
        muted.filter(|user| words.contains(&user.word)).count() as u64
    }

    /// From when to when each admitted user was surely there.
    pub(crate) fn spans(&self) -> impl Iterator<Item = Span> {
        self.0
            .iter()
            .filter_map(|user| Some((user.heard?, user.left)))
    }

    /// Each source's spans, and how many of its users came.
    pub(crate) fn sources(&self) -> HashMap<IpAddr, (Vec<Span>, u64)> {
        let mut sources: HashMap<_, (Vec<Span>, u64)> = HashMap::new();
        for user in &self.0 {
            let (spans, users) = sources.entry(user.source).or_default();
            spans.extend(user.heard.map(|at| (at, user.left)));
            *users += 1;
        }
        sources
    }
}

fn connect_all(way: &Way, users: &mut [User], first: usize) -> Result<()> {
    let count = users.len();
    way.ns.run(|| {
        let fd = Socket::new(
            Domain::IPV4,
            Type::RAW,
            Some(Protocol::from(libc::IPPROTO_RAW)),
        )
        .context("a raw socket")?;
        for (nth, user) in (first..).zip(users) {
            let door = way.doors[nth % way.doors.len()];
            let (Some(stream), to) = (&user.stream, SocketAddr::new(door, way.port)) else {
                continue;
            };
            match SockRef::from(stream).connect(&to.into()) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    user.standing = Standing::Refused;
                }
                Err(error) => return Err(error).context("connect"),
            }
        }
        // Half-open ones come from addresses that answer nothing, without a socket of ours.
        let Some(IpAddr::V4(door)) = way.doors.iter().find(|door| door.is_ipv4()) else {
            return Ok(());
        };
        let to = SocketAddrV4::new(*door, way.port);
        for _ in 0..count / KINDS.len() {
            let from = SocketAddrV4::new(syn::forged(fastrand::u32(..)), fastrand::u16(1024..));
            // One that is lost is one less.
            let raw = SockaddrIn::from(SocketAddrV4::new(*door, 0));
            let _ = sendto(
                fd.as_raw_fd(),
                &syn::packet(from, to),
                &raw,
                MsgFlags::MSG_DONTWAIT,
            );
        }
        Ok(())
    })
}

impl User {
    fn new(way: &Way, nth: usize, kind: Kind, name: u32) -> Result<User> {
        let v4 = way.doors[nth % way.doors.len()].is_ipv4();
        let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM, None).context("a socket")?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        // Whoever has no address of its own is on one wire with the door.
        let mut from = source(way.doors[nth % way.doors.len()]);
        if v4 && !way.sources.is_empty() {
            // All of them, though doors are taken in turn. Its port is chosen with the connect, so that there
            // are enough of them.
            let its = way.sources[nth / way.doors.len() % way.sources.len()];
            bind_address(&socket, its)?;
            from = its.into();
        }
        if kind == Kind::DataInAck {
            setsockopt(&socket, QuickAck, &false).context("set TCP_QUICKACK")?;
        }
        let stream = TcpStream::from(socket);
        let mut word = [0; WORD];
        word[..4].copy_from_slice(&name.to_le_bytes());
        word[4..].copy_from_slice(&u32::try_from(nth)?.to_le_bytes());
        Ok(User {
            kind,
            source: from,
            stream: Some(stream),
            word,
            // Who is idle never asks.
            asked: kind == Kind::Idle,
            heard: None,
            echoed: 0,
            standing: Standing::Waiting,
            left: None,
        })
    }

    fn step(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut over = None;
        if !self.asked {
            let mut question = vec![b'E'];
            question.extend(self.word);
            match stream.write(&question) {
                Ok(_) => self.asked = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => over = Some(error.kind()),
            }
        }
        let mut buffer = [0; 64];
        match stream.read(&mut buffer) {
            Ok(0) => over = over.or(Some(ErrorKind::UnexpectedEof)),
            Ok(read) => {
                // The first byte is the greeting.
                self.echoed += read - usize::from(self.heard.is_none());
                self.heard.get_or_insert_with(Instant::now);
                self.standing = Standing::Admitted;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Not connected yet.
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            Err(error) => over = over.or(Some(error.kind())),
        }
        match over {
            None => {}
            Some(ErrorKind::ConnectionRefused) => self.end(Standing::Refused),
            Some(_) => self.end(Standing::Ended),
        }
    }

    fn end(&mut self, standing: Standing) {
        self.standing = standing;
        self.left = Some(Instant::now());
        self.stream = None;
    }
}

/// Binds to an address and leaves the port for the connect.
fn bind_address(socket: &Socket, source: Ipv4Addr) -> Result<()> {
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true).context("leave the port open")?;
    socket
        .bind(&SocketAddr::from((source, 0)).into())
        .context("bind to a source")
}
