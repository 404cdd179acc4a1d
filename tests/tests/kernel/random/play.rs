//! What is done, step by step.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use fastrand::Rng;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use totoro_api::Reason;
use totoro_ebpf::abi::{self, ACTIVE, CUT, HELD, TCP, Tenant, UDP};
use totoro_node::kernel::{Kernel, KernelOptions};

use super::model::{Conn, Model, PARENT, SOURCES, TENANTS, Talk, address, parent_of};
use crate::recycled::talkative;
use crate::sockets::{PORT, listen};
use crate::support::{self, refused};

/// Before a flow that is not confirmed is idle (10 s), it is.
const SOON: Duration = Duration::from_secs(4);

/// The node, its services, and the model.
pub(super) struct Play {
    pub(super) options: KernelOptions,
    kernel: Option<Kernel>,
    dice: Rng,
    listeners: [TcpListener; 3],
    services: [Option<UdpSocket>; 3],
    leases: u64,
    pub(super) model: Model,
    /// Who was refused for which reasons, and for which a flow took another's place.
    pub(super) seen: BTreeSet<(&'static str, Reason)>,
    /// What was done, for who has to find out.
    pub(super) story: String,
}

/// Who writes to a socket: waited for where it is sure.
fn hears(socket: &UdpSocket, is_sure: bool) -> Option<SocketAddr> {
    socket.set_nonblocking(!is_sure).expect("set");
    let long = Some(Duration::from_secs(5));
    socket.set_read_timeout(long).expect("timeout");
    Some(socket.recv_from(&mut [0; 16]).ok()?.1)
}

/// A limit: mostly small, sometimes 0.
fn limit(dice: &mut Rng, most: u32) -> u32 {
    let least = u32::from(dice.u8(..8) != 0);
    dice.u32(least..=most)
}

impl Play {
    pub(super) fn new(kernel: Kernel, options: KernelOptions, dice: Rng) -> Play {
        let none = Tenant::default();
        let mut play = Play {
            options,
            kernel: Some(kernel),
            dice,
            listeners: [0, 1, 2].map(|nth| listen(PORT + nth)),
            services: [None, None, None],
            leases: 0,
            model: Model {
                limits: [none; 3],
                parent: none,
                leased: [false; 3],
                banned: Vec::new(),
                admitted: [0; 3],
                conns: Vec::new(),
                talks: Vec::new(),
            },
            seen: BTreeSet::new(),
            story: String::new(),
        };
        play.limit_parent();
        for nth in 0..3 {
            play.limit(nth, ACTIVE);
            play.lend(nth);
        }
        play
    }

    pub(super) fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().expect("loaded")
    }

    pub(super) fn step(&mut self) {
        self.confirm(|talk| talk.since.elapsed() > SOON);
        let nth = self.dice.usize(..3);
        let source = self.dice.u8(..SOURCES);
        match self.dice.u8(..40) {
            0..12 => self.connect(nth, source),
            12..16 => self.leave(),
            16..18 => self.say(),
            18..26 => self.talk(nth, source),
            26..30 => self.talk_again(),
            30 => self.limit_parent(),
            31 => match self.dice.u8(..16) {
                0..4 => self.limit(nth, HELD),
                4..8 => self.limit(nth, CUT),
                8..12 => self.take_back(nth),
                12..15 => self.ban(source),
                _ => self.restart(),
            },
            // What is closed opens again soon.
            32 => self.model.banned.clear(),
            33..36 => self.lend(nth),
            _ => self.limit(nth, ACTIVE),
        }
        self.write_bans();
    }

    fn note(&mut self, what: std::fmt::Arguments) {
        let _ = writeln!(self.story, "{what}");
    }

    fn connect(&mut self, nth: usize, source: u8) {
        let why = self.model.refuses(nth, source);
        self.note(format_args!("{source} connects to {nth}: {why:?}"));
        let before = why.map_or(0, |reason| refused(self.kernel(), reason));
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        let own: SocketAddr = (address(source), 0).into();
        socket.bind(&own.into()).expect("bind");
        let to: SocketAddr = (Ipv4Addr::LOCALHOST, PORT + nth as u16).into();
        let came = socket.connect_timeout(&to.into(), Duration::from_secs(2));
        let Some(reason) = why else {
            came.expect("there is room");
            let (service, _) = self.listeners[nth].accept().expect("accept");
            let user = TcpStream::from(socket);
            for end in [&user, &service] {
                let long = Some(Duration::from_secs(5));
                end.set_read_timeout(long).expect("timeout");
            }
            self.model.admitted[nth] += 1;
            self.model.conns.push(Conn {
                nth,
                source,
                user,
                service,
            });
            return;
        };
        let error = came.expect_err("refused");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        self.seen.insert(("a connection", reason));
        // More where a late segment of one that ended came to no socket meanwhile.
        let counted = refused(self.kernel(), reason);
        assert!(counted > before, "counted as {reason:?}");
    }

    /// One ends, in one of three ways.
    fn leave(&mut self) {
        if self.model.conns.is_empty() {
            return;
        }
        let at = self.dice.usize(..self.model.conns.len());
        let conn = self.model.conns.swap_remove(at);
        let way = self.dice.u8(..3);
        self.note(format_args!(
            "{} leaves {} by way {way}",
            conn.source, conn.nth
        ));
        if way == 0 {
            let now = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&conn.user, sockopt::Linger, &now).expect("linger");
        }
        if way == 1 {
            drop(conn.service);
            drop(conn.user);
        } else {
            drop(conn.user);
            drop(conn.service);
        }
    }

    /// Whoever is in goes on, whatever is decided of newcomers.
    fn say(&mut self) {
        if self.model.conns.is_empty() {
            return;
        }
        let at = self.dice.usize(..self.model.conns.len());
        let Conn { user, service, .. } = &mut self.model.conns[at];
        let mut word = [0; 4];
        user.write_all(b"word").expect("sent");
        service.read_exact(&mut word).expect("heard");
        service.write_all(&word).expect("sent back");
        user.read_exact(&mut word).expect("heard back");
    }

    /// A new flow, which the service answers at once.
    fn talk(&mut self, nth: usize, source: u8) {
        let closed = self.model.closed(nth, source);
        let full = self.model.full(nth, source);
        let user = UdpSocket::bind((address(source), 0)).expect("bind");
        let to = (Ipv4Addr::LOCALHOST, PORT + nth as u16);
        user.connect(to).expect("connect");
        // Where nobody knows whether it comes, it has come when `send` returns, or not in time.
        let is_sure = closed.is_none() && full.is_none();
        let why = closed.or(full.and_then(|(reason, may_take)| (!may_take).then_some(reason)));
        let before = why.map_or(0, |reason| refused(self.kernel(), reason));
        user.send(b"hello").expect("sent");
        let came = self.answer(nth, is_sure) && hears(&user, is_sure).is_some();
        self.note(format_args!(
            "{source} writes to {nth}, {came}: {closed:?} {full:?}"
        ));
        if let Some(reason) = why {
            self.seen.insert(("a flow", reason));
            let counted = refused(self.kernel(), reason);
            assert!(counted > before, "counted as {reason:?}");
        }
        match (closed, full) {
            (None, None) => assert!(came, "there is room"),
            // Notes of who may give its place are hints: with one that was lost there is no room.
            (None, Some((_, true))) => {}
            _ => assert!(!came, "refused"),
        }
        if let Some((reason, true)) = full {
            self.find_taken(nth, source, reason, came);
        }
        if came {
            self.model.talks.push(Talk {
                nth,
                source,
                user,
                is_confirmed: false,
                since: Instant::now(),
            });
        }
    }

    /// Has the service answer what it has, or is sure to get; whether it could.
    fn answer(&mut self, nth: usize, is_sure: bool) -> bool {
        let Some(service) = &self.services[nth] else {
            return false;
        };
        let from = hears(service, is_sure);
        from.is_some_and(|from| service.send_to(b"answer", from).is_ok())
    }

    /// Whose place the newest one took: it was not confirmed, and of those who had no more. (Where fewer may be than
    /// are, one goes, and there is no room all the same.)
    fn find_taken(&mut self, nth: usize, source: u8, reason: Reason, came: bool) {
        let flows = self.kernel().flows().expect("flows");
        let there = |talk: &Talk| {
            let own = talk.user.local_addr().expect("bound");
            let port = PORT + talk.nth as u16;
            let mut its = flows.iter().map(|(key, _)| key);
            its.any(|key| (key.remote_port, key.port) == (own.port(), port))
        };
        let gone: Vec<usize> = (0..self.model.talks.len())
            .filter(|at| !there(&self.model.talks[*at]))
            .collect();
        let at = match gone[..] {
            [at] => at,
            [] if !came => return,
            _ => panic!("one took the place of {} others", gone.len()),
        };
        let taken = self.model.talks.swap_remove(at);
        self.note(format_args!(
            "in the place of {} at {}",
            taken.source, taken.nth
        ));
        assert!(!taken.is_confirmed, "who was confirmed lost its place");
        let fits = match reason {
            Reason::MaxConnsPerSource => (taken.nth, taken.source) == (nth, source),
            Reason::MaxFlows => taken.nth == nth,
            _ => taken.nth != 0,
        };
        assert!(fits, "another one's place, for {reason:?}");
        let has_room = self.model.full(nth, source).is_none();
        assert_eq!(came, has_room, "a place was taken for nobody");
        if came {
            self.seen.insert(("a place", reason));
        }
    }

    fn talk_again(&mut self) {
        if self.model.talks.is_empty() {
            return;
        }
        let at = self.dice.usize(..self.model.talks.len());
        self.confirm_one(at);
    }

    fn confirm(&mut self, which: impl Fn(&Talk) -> bool) {
        for at in 0..self.model.talks.len() {
            let talk = &self.model.talks[at];
            if !talk.is_confirmed && which(talk) {
                self.confirm_one(at);
            }
        }
    }

    fn confirm_one(&mut self, at: usize) {
        let nth = self.model.talks[at].nth;
        let sent = self.model.talks[at].user.send(b"again");
        self.note(format_args!("one at {nth} writes again: {sent:?}"));
        sent.expect("sent");
        assert!(self.answer(nth, true), "what flows goes on");
        let talk = &mut self.model.talks[at];
        hears(&talk.user, true).expect("answered");
        talk.is_confirmed = true;
    }

    fn limit(&mut self, nth: usize, state: u32) {
        let dice = &mut self.dice;
        let reason = match state {
            HELD => Reason::InvitePaused.number(),
            CUT => Reason::InviteRevoked.number(),
            _ => 0,
        };
        let limits = Tenant {
            state,
            reason,
            parent: parent_of(nth),
            max_conns: limit(dice, 5),
            max_flows: limit(dice, 5),
            max_conns_per_source: limit(dice, 3),
            ..Tenant::default()
        };
        let (conns, flows) = (limits.max_conns, limits.max_flows);
        let each = limits.max_conns_per_source;
        self.note(format_args!("{nth} is {state}: {conns} {flows} {each}"));
        self.model.limits[nth] = limits;
        self.kernel()
            .put_tenant(TENANTS[nth], &limits)
            .expect("put");
        if state == CUT {
            self.kernel().destroy_tenant(TENANTS[nth]).expect("cut");
            self.end(nth);
        }
    }

    fn limit_parent(&mut self) {
        let all = Tenant {
            state: ACTIVE,
            max_conns: limit(&mut self.dice, 6),
            max_flows: limit(&mut self.dice, 6),
            max_conns_per_source: abi::UNLIMITED,
            ..Tenant::default()
        };
        let (conns, flows) = (all.max_conns, all.max_flows);
        self.note(format_args!("the parent: {conns} {flows}"));
        self.model.parent = all;
        self.kernel().put_tenant(PARENT, &all).expect("put");
    }

    /// A lease of each protocol, and frps opens the port.
    fn lend(&mut self, nth: usize) {
        if self.model.leased[nth] {
            return;
        }
        self.note(format_args!("{nth} leases its port"));
        self.leases += 1;
        for proto in [TCP, UDP] {
            let key = support::key(proto, PORT + nth as u16);
            let lease = support::lease(TENANTS[nth], 2 * self.leases + u64::from(proto == UDP));
            self.kernel().put_lease(key, &lease).expect("lease");
        }
        self.services[nth] = Some(talkative(PORT + nth as u16));
        self.model.leased[nth] = true;
    }

    fn take_back(&mut self, nth: usize) {
        if !self.model.leased[nth] {
            return;
        }
        self.note(format_args!("{nth} loses its port"));
        let keys = [TCP, UDP].map(|proto| support::key(proto, PORT + nth as u16));
        self.kernel().remove_leases(&keys).expect("closed");
        self.services[nth] = None;
        self.model.leased[nth] = false;
        self.end(nth);
    }

    fn end(&mut self, nth: usize) {
        self.model.conns.retain(|conn| conn.nth != nth);
        self.model.talks.retain(|talk| talk.nth != nth);
    }

    /// Connections go on, flows don't.
    fn ban(&mut self, source: u8) {
        self.note(format_args!("{source} is banned"));
        self.model.banned.push(source);
        self.model.talks.retain(|talk| talk.source != source);
    }

    fn write_bans(&self) {
        let bans = self.model.banned.iter();
        let bans = bans.map(|source| (IpAddr::from(address(*source)).into(), 0));
        self.kernel().set_bans(&bans.collect()).expect("bans");
    }

    fn restart(&mut self) {
        // It may take its time.
        self.confirm(|_| true);
        self.note(format_args!("another daemon"));
        drop(self.kernel.take());
        self.kernel = Some(Kernel::load(&self.options).expect("adopts"));
    }
}
