//! Revocation reaches everything, whatever way frpc has taken: how long after the answer to it the last
//! byte comes.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::client::{Client, Way, ample, file};
use super::handmade::{HandMade, Work};
use super::{quantiles, world};
use crate::lab::{NODE_CLIENT_V4, NODE_USER_V4, NODE_USER_V6, Place};
use crate::net::user;
use crate::story::frpc::{self, PATIENCE, Proxy};
use crate::story::{FRPS_PORT, World, within};
use totoro_api::Reason;

/// The byte that only the hand-made client says.
const MARK: u8 = b'#';
/// Datagrams that nobody answers after the end.
const SILENT: usize = 20;
/// So long silence before a revocation is asked for says that something else ended it.
const ALIVE: Duration = Duration::from_millis(500);
/// Ports of the pool that the rounds use in turn.
const PORTS: u16 = 80;

/// Ports come free soon, so that many rounds fit a small pool.
const SOON: [(&str, &str); 2] = [("port_reserve", "\"1s\""), ("port_cool", "\"1s\"")];

/// One way to hold a tunnel.
struct Case {
    name: &'static str,
    way: Way,
    /// Whether users' bytes go over a second, hand-made connection.
    handmade: bool,
}

static MUXED: [Case; 5] = [
    Case {
        name: "tcp, one connection, IPv4",
        way: Way::PLAIN,
        handmade: false,
    },
    Case {
        name: "tcp, one connection, IPv6",
        way: Way {
            server: "fd77:1::1",
            ..Way::PLAIN
        },
        handmade: false,
    },
    Case {
        name: "websocket, one connection, IPv4",
        way: Way::WEBSOCKET,
        handmade: false,
    },
    Case {
        name: "websocket, one connection, IPv6",
        way: Way {
            server: "fd77:1::1",
            ..Way::WEBSOCKET
        },
        handmade: false,
    },
    Case {
        name: "hand-made second connection",
        way: Way::PLAIN,
        handmade: true,
    },
];

static PLAIN: [Case; 2] = [
    Case {
        name: "tcp, tcpMux off",
        way: Way {
            mux: false,
            ..Way::PLAIN
        },
        handmade: false,
    },
    Case {
        name: "websocket, tcpMux off",
        way: Way {
            mux: false,
            ..Way::WEBSOCKET
        },
        handmade: false,
    },
];

/// Ways that can't be tied to one TCP connection, a websocket past the filter among them; none may
/// log in.
const UNTOLD: [(&str, u16); 3] = [
    ("websocket", FRPS_PORT),
    ("kcp", FRPS_PORT + 1),
    ("quic", FRPS_PORT + 2),
];

/// What one case's rounds measured.
#[derive(Default)]
struct Figures {
    tcp: Vec<Duration>,
    udp: Vec<Duration>,
    gone: Vec<Duration>,
}

/// Plays `rounds` of each way whose name has `way` in it, and prints the figures.
///
/// # Errors
/// Something outlived its invite, no way has such a name, or the lab can't be had.
pub fn play(rounds: u16, way: &str) -> Result<()> {
    let wanted = |cases: &'static [Case]| -> Vec<&Case> {
        let cases = cases.iter();
        cases.filter(|case| case.name.contains(way)).collect()
    };
    let (muxed, plain) = (wanted(&MUXED), wanted(&PLAIN));
    if muxed.is_empty() && plain.is_empty() {
        let all = MUXED.iter().chain(&PLAIN).map(|case| case.name);
        let all: Vec<_> = all.collect();
        bail!(
            "no way's name has {way:?} in it; there are: {}",
            all.join("; ")
        );
    }
    println!("ms from the answer to a revocation, p50 / p99 of {rounds} rounds");
    lab("mux", &SOON, &muxed, rounds)?;
    let settings = [SOON[0], SOON[1], ("frps_tcp_mux", "false")];
    lab("nomux", &settings, &plain, rounds)
}

/// The cases of one lab, if there are any.
fn lab(
    name: &str,
    settings: &[(&'static str, &'static str)],
    cases: &[&Case],
    rounds: u16,
) -> Result<()> {
    if cases.is_empty() {
        return Ok(());
    }
    let world = world(name, settings)?;
    for (nth, case) in (0..).zip(cases) {
        let mut figures = series(&world, case, nth * rounds, rounds)?;
        println!(
            "{}: last byte {}, last datagram {}, frpc disconnected {}",
            case.name,
            quantiles(&mut figures.tcp),
            quantiles(&mut figures.udp),
            quantiles(&mut figures.gone)
        );
    }
    leftovers(&world)
}

/// Ways that can't be enforced are refused at the login, and frpc says why.
///
/// # Errors
/// One logged in.
pub fn untold() -> Result<()> {
    let mut world = world("untold", &[("interfaces", "[\"us0\"]")])?;
    world.frps.take().context("frps runs")?.stop();
    world.frps_more = format!(
        "kcpBindPort = {}\nquicBindPort = {}\n",
        FRPS_PORT + 1,
        FRPS_PORT + 2
    );
    crate::story::start_frps(&mut world)?;
    for (protocol, port) in UNTOLD {
        let way = Way {
            protocol,
            port,
            ..Way::PLAIN
        };
        let proxies = [Proxy::new("web", "tcp", world.backend.tcp, 0)];
        let (_, text) = file(&world, protocol, ample(), way, &proxies)?;
        let said = frpc::login_refused(&world, protocol, &text, Reason::Unsupported)?;
        println!("{protocol}: {said}");
    }
    Ok(())
}

/// Rounds `first..first + rounds` of a lab.
fn series(world: &World, case: &Case, first: u16, rounds: u16) -> Result<Figures> {
    let mut figures = Figures::default();
    for nth in 0..rounds {
        let round =
            round(world, case, first + nth).with_context(|| format!("{}, {nth}", case.name))?;
        let [tcp, udp, gone] = round;
        figures.tcp.push(tcp);
        figures.udp.push(udp);
        figures.gone.push(gone);
        if (nth + 1) % 20 == 0 {
            println!("{}: {} of {rounds}", case.name, nth + 1);
        }
    }
    Ok(figures)
}

/// One tunnel in use, and its end: the last byte, the last datagram and frpc's disconnection.
fn round(world: &World, case: &Case, nth: u16) -> Result<[Duration; 3]> {
    let port = 20_000 + nth % PORTS;
    let proxies = [
        Proxy::new("web", "tcp", world.backend.tcp, port),
        Proxy::new("dns", "udp", world.backend.udp, port),
    ];
    let mut client = Client::start(
        world,
        &format!("revoked-{nth}"),
        ample(),
        case.way,
        &proxies,
    )?;
    let ns = world.lab.ns(Place::User);
    // Users come by IPv4 and IPv6 in turn.
    let ip = [NODE_USER_V4, NODE_USER_V6][usize::from(nth % 2)];
    let to = user::at(ip, port)?;
    let second = case.handmade.then(|| second(world, &client)).transpose()?;
    let mut stream = within(PATIENCE, || {
        let mut stream = user::connect(ns, to)?;
        let wanted = if second.is_some() { MARK } else { b'.' };
        std::io::Write::write_all(&mut stream, b"TICK")?;
        let mut first = [0];
        std::io::Read::read_exact(&mut stream, &mut first)?;
        Ok((first == [wanted]).then_some(stream))
    })?;
    let datagrams = user::datagrams(ns, to)?;
    let first = within(PATIENCE, || pinged(&datagrams))?;
    let mark = client.frpc.mark();
    let stop = AtomicBool::new(false);
    let (answered, last, udp, gone) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| user::read_to_death(&mut stream, Duration::from_secs(10)));
        let pinger = scope.spawn(|| ping(&datagrams, first, &stop));
        std::thread::sleep(Duration::from_millis(30));
        let asked = Instant::now();
        let revoked = client.revoke(world).map(|()| (asked, Instant::now()));
        let gone = client
            .frpc
            .wait_after(mark, "try to connect to server", PATIENCE)
            .map(|_| Instant::now());
        let last = reader.join();
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::SeqCst);
        (revoked, last, pinger.join(), gone)
    });
    let ((asked, answered), gone) = (answered?, gone?);
    let (last, _) = last.ok().context("the reader panicked")??;
    let udp = udp.ok().context("the pinger panicked")?;
    for (what, last) in [("TCP", last), ("UDP", udp)] {
        let before = asked.saturating_duration_since(last);
        ensure!(
            before < ALIVE,
            "{what} had ended {before:?} before it was revoked"
        );
    }
    // The tenant was cut before frpc's connection was, and what was under way has come.
    for _ in 0..SILENT {
        ensure!(pinged(&datagrams)?.is_none(), "UDP goes on");
    }
    client.frpc.kill();
    if let Some(second) = second {
        no_way_back(world, &second, &client.run_id, to)?;
    }
    Ok([last, udp, gone].map(|at| at.saturating_duration_since(answered)))
}

/// A second connection, whose work connections frps takes before it asks frpc for one.
fn second(world: &World, client: &Client) -> Result<HandMade> {
    let frps = user::at(NODE_CLIENT_V4, FRPS_PORT)?;
    let second = HandMade::connect(world.lab.ns(Place::Client), frps)?;
    for _ in 0..4 {
        second.offer(&client.run_id, Work::Tick(MARK))?;
    }
    Ok(second)
}

/// What is offered after the end opens nothing.
fn no_way_back(world: &World, second: &HandMade, run_id: &str, to: SocketAddr) -> Result<()> {
    let started = second.started();
    ensure!(started > 0, "the second connection carried nothing");
    // frps may have closed it by now, and that is as good.
    if second.offer(run_id, Work::Tick(MARK)).is_err() {
        return Ok(());
    }
    if user::connect(world.lab.ns(Place::User), to).is_ok() {
        bail!("a user gets in after the end");
    }
    ensure!(
        second.started() == started,
        "a work connection after the end"
    );
    Ok(())
}

/// Sends a datagram and waits a millisecond for an answer; when it came.
fn pinged(socket: &UdpSocket) -> Result<Option<Instant>> {
    socket.set_read_timeout(Some(Duration::from_millis(1)))?;
    // A refusal by ICMP is an error of the next call.
    let _ = socket.send(b"ping");
    Ok(socket.recv(&mut [0; 16]).is_ok().then(Instant::now))
}

/// Does so until told to stop; when the last answer came.
fn ping(socket: &UdpSocket, mut last: Instant, stop: &AtomicBool) -> Instant {
    while !stop.load(Ordering::SeqCst) {
        if let Ok(Some(at)) = pinged(socket) {
            last = at;
        }
    }
    last
}

/// After all of it nobody's connection is left, and frps's port listens.
fn leftovers(world: &World) -> Result<()> {
    within(PATIENCE, || {
        let conns = world.inspect("conns")?;
        ensure!(conns.is_empty(), "{conns:?}");
        Ok(Some(()))
    })?;
    user::connect(
        world.lab.ns(Place::Client),
        user::at(NODE_CLIENT_V4, FRPS_PORT)?,
    )
    .context("frps's own port")?;
    Ok(())
}
