//! The end of a tunnel: from the answer to a revocation, and from the instant of an expiry, to the last byte
//! that passes, each way.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde_json::json;
use time::format_description::well_known::Rfc3339;
use totoro_report::{Better, Figure, Goal, Run};
use totoro_tests::hostile::client::{Client, USERS_DOOR, Way, ample};
use totoro_tests::hostile::quiet_world;
use totoro_tests::lab::{NODE_USER_V6, Place};
use totoro_tests::net::user;
use totoro_tests::story::{World, within};

use super::Args;
use super::stage::proxies;
use crate::Progress;
use crate::net::service::{By, Service, WORD};

const PATIENCE: Duration = Duration::from_secs(20);
/// Cuts of each kind in a round.
const CUTS: usize = 2;
/// Ports of the pool that are used in turn.
const PORTS: usize = 80;
/// The most that anything may go on, ms: each time, since a single late one is a tunnel that outlived its
/// end.
const GOAL: f64 = 100.0;
/// The most that any stream may be silent before its end is asked for, ms: else that was not what ended it.
const SILENT: f64 = 50.0;
/// How long an invite that expires lives: longer than its frpc takes to come up on a busy machine.
const LIFE: Duration = Duration::from_secs(4);
/// After the end nothing is expected; so long it is listened for.
const SILENCE: Duration = Duration::from_millis(700);

/// Ports come free soon, so that many rounds fit a small pool.
const SETTINGS: [(&str, &str); 3] = [
    ("xdp", "\"auto\""),
    ("port_reserve", "\"1s\""),
    ("port_cool", "\"1s\""),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Revoked,
    Expired,
}

/// What is listened to.
const STREAMS: [&str; 4] = [
    "last byte to a user",
    "last byte from a user",
    "last datagram to a user",
    "last datagram from a user",
];

/// When the last came of each of [`STREAMS`], ms; negative: before.
struct Cut {
    /// After a revocation was asked for.
    asked: [f64; STREAMS.len()],
    /// After its answer, or after the expiry.
    end: [f64; STREAMS.len()],
}

impl Cut {
    /// How long one of the streams was silent before anything was to end it.
    fn silent(&self) -> f64 {
        let first = self.asked.iter().copied().fold(f64::MAX, f64::min);
        (-first).max(0.0)
    }
}

/// Measures.
///
/// # Errors
/// The lab can't be had, or a tunnel outlives its end by seconds.
pub(super) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    run.note(
        "Cut: a word goes there and back each millisecond. Revocation is counted from its answer, and from its \
         request, expiry from the instant that the invite names, by the wall clock; what ends before counts as \
         0. That all went on until a revocation was asked for, or until the expiry, is a figure of its own.",
    );
    let world = quiet_world("acc-cut", &SETTINGS)?;
    let service = Service::start(world.lab.ns(Place::Client), false)?;
    let mut nth = 0;
    let mut all = [(Ending::Revoked, Vec::new()), (Ending::Expired, Vec::new())];
    for round in 1..=args.rounds {
        for (way, cuts) in &mut all {
            for _ in 0..CUTS {
                cuts.push(cut(&world, &service, *way, nth).with_context(|| format!("cut {nth}"))?);
                nth += 1;
            }
        }
        progress.says(&format!("cuts, round {round} of {}", args.rounds));
    }
    for (way, cuts) in &all {
        let name = match way {
            Ending::Revoked => "revocation",
            Ending::Expired => "expiry",
        };
        let mut add = |what: &str, samples, most| {
            let figure = Figure::new("cut", what, "ms", Better::Less, samples);
            run.add(figure.goal(Goal::at_most(most).each()));
        };
        for (nth, what) in STREAMS.into_iter().enumerate() {
            let late = |of: fn(&Cut) -> &[f64; STREAMS.len()]| {
                cuts.iter().map(|cut| of(cut)[nth].max(0.0)).collect()
            };
            add(&format!("{name} to the {what}"), late(|cut| &cut.end), GOAL);
            if *way == Ending::Revoked {
                let from = format!("{name}, from its request, to the {what}");
                add(&from, late(|cut| &cut.asked), GOAL);
            }
        }
        let silent = cuts.iter().map(Cut::silent).collect();
        add(
            &format!("{name}: one was silent so long before"),
            silent,
            SILENT,
        );
    }
    Ok(())
}

/// One tunnel in use, and its end.
fn cut(world: &World, service: &Service, way: Ending, nth: usize) -> Result<Cut> {
    let port = u16::try_from(20_000 + nth % PORTS)?;
    let name = format!("cut-{nth}");
    let proxies = proxies(service, port);
    // An invite's time is in whole seconds.
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs((unix + LIFE).as_secs());
    let client = match way {
        Ending::Revoked => Client::start(world, &name, ample(), Way::PLAIN, &proxies)?,
        Ending::Expired => {
            let at = time::OffsetDateTime::from(expires).format(&Rfc3339)?;
            let body = json!({ "label": name, "limits": ample(), "expires_at": at });
            let tenant = world.invite_of(&body)?;
            Client::of(world, &name, &tenant, Way::PLAIN, &proxies)?
        }
    };
    let to = user::at([USERS_DOOR, NODE_USER_V6][nth % 2], port)?;
    let ns = world.lab.ns(Place::User);
    let mut stream = within(PATIENCE, || {
        let mut stream = user::connect(ns, to)?;
        stream.write_all(b"E")?;
        user::exchange(&mut stream, b"the 1st!")?;
        Ok(Some(stream))
    })?;
    let datagrams = user::datagrams(ns, to)?;
    within(PATIENCE, || ping(&datagrams))?;
    let stop = AtomicBool::new(false);
    let ((asked, end), down, last) = std::thread::scope(|scope| {
        let writer = stream.try_clone()?;
        let (halt, socket) = (&stop, &datagrams);
        let speak = scope.spawn(move || write(writer, halt));
        let listen = scope.spawn(|| user::read_to_death(&mut stream, LIFE + PATIENCE));
        let pinger = scope.spawn(move || pings(socket, halt));
        let end = match way {
            Ending::Revoked => {
                std::thread::sleep(Duration::from_millis(30));
                let asked = Instant::now();
                client.revoke(world).map(|()| (asked, Instant::now()))
            }
            Ending::Expired => {
                let left = expires.duration_since(SystemTime::now());
                let left = left.context("it expired before it was in use")?;
                let end = Instant::now() + left;
                std::thread::sleep(left);
                Ok((end, end))
            }
        };
        std::thread::sleep(SILENCE);
        stop.store(true, Ordering::SeqCst);
        speak.join().ok().context("the writer panicked")?;
        let down = listen.join().ok().context("the reader panicked")??.0;
        let last = pinger.join().ok().context("the pinger panicked")?;
        anyhow::Ok((end?, down, last))
    })?;
    let last = last.context("no datagram was answered")?;
    let up = service.heard(By::Tcp).context("nothing arrived")?;
    let from = service.heard(By::Udp).context("no datagram arrived")?;
    user::denied(ns, to, Duration::from_millis(200)).context("after the end")?;
    client.frpc.kill();
    let lasts = [down, up, last, from];
    Ok(Cut {
        asked: lasts.map(|last| after(last, asked)),
        end: lasts.map(|last| after(last, end)),
    })
}

/// How long after `since` something was, ms; negative: before it.
fn after(at: Instant, since: Instant) -> f64 {
    let late = at.saturating_duration_since(since).as_secs_f64();
    (late - since.saturating_duration_since(at).as_secs_f64()) * 1000.0
}

/// Writes a word each millisecond until it can't, or is told to stop.
fn write(mut stream: TcpStream, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) && stream.write_all(&[7; WORD]).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a datagram and waits a millisecond for an answer; when it came.
fn ping(socket: &UdpSocket) -> Result<Option<Instant>> {
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    // A refusal by ICMP is an error of the next call.
    let _ = socket.send(b"ping");
    Ok(socket.recv(&mut [0; 16]).is_ok().then(Instant::now))
}

/// Does so until told to stop; when the last answer came.
fn pings(socket: &UdpSocket, stop: &AtomicBool) -> Option<Instant> {
    let mut last = None;
    while !stop.load(Ordering::SeqCst) {
        if let Ok(Some(at)) = ping(socket) {
            last = Some(at);
        }
    }
    last
}
