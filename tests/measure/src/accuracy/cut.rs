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

/// How long it went on, ms; negative: it ended before.
struct Cut {
    down: f64,
    up: f64,
    /// Datagrams to the user, and from it.
    datagrams: [f64; 2],
}

/// One of them.
type Part = fn(&Cut) -> f64;

/// Measures.
///
/// # Errors
/// The lab can't be had, or a tunnel outlives its end by seconds.
pub(super) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    run.note(
        "Cut: a word goes there and back each millisecond. Revocation is counted from its answer, expiry \
         from the instant that the invite names, by the wall clock; what ends before counts as 0.",
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
        let parts: [(&str, Part); 4] = [
            ("last byte to a user", |cut| cut.down),
            ("last byte from a user", |cut| cut.up),
            ("last datagram to a user", |cut| cut.datagrams[0]),
            ("last datagram from a user", |cut| cut.datagrams[1]),
        ];
        for (what, part) in parts {
            let samples = cuts.iter().map(|cut| part(cut).max(0.0)).collect();
            let name = format!("{name} to the {what}");
            let figure = Figure::new("cut", &name, "ms", Better::Less, samples);
            run.add(figure.goal(Goal::at_most(GOAL).each()));
        }
        if *way == Ending::Expired {
            let early = cuts.iter().map(|cut| (-cut.down).max(0.0)).collect();
            let what = "expiry: ended so long before";
            let figure = Figure::new("cut", what, "ms", Better::Less, early);
            run.add(figure.goal(Goal::at_most(GOAL).each()));
        }
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
    let (end, down, last) = std::thread::scope(|scope| {
        let writer = stream.try_clone()?;
        let (halt, socket) = (&stop, &datagrams);
        let speak = scope.spawn(move || write(writer, halt));
        let listen = scope.spawn(|| user::read_to_death(&mut stream, LIFE + PATIENCE));
        let pinger = scope.spawn(move || pings(socket, halt));
        let end = match way {
            Ending::Revoked => {
                std::thread::sleep(Duration::from_millis(30));
                client.revoke(world).map(|()| Instant::now())
            }
            Ending::Expired => {
                let left = expires.duration_since(SystemTime::now());
                let left = left.context("it expired before it was in use")?;
                let end = Instant::now() + left;
                std::thread::sleep(left);
                Ok(end)
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
    let after = |at: Instant| match at.checked_duration_since(end) {
        Some(late) => late.as_secs_f64() * 1000.0,
        None => -(end - at).as_secs_f64() * 1000.0,
    };
    Ok(Cut {
        down: after(down),
        up: after(up),
        datagrams: [after(last), after(from)],
    })
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
