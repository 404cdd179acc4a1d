//! SYN floods against one invite's port: how another invite's users fare, beside the same flood with
//! frps alone.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::client::{Client, USERS_DOOR, Way, ample};
use super::world;
use crate::lab::{self, Lab, NODE_CLIENT_V4, Netns, Options, Place, Process, Tools, USER_V4};
use crate::net::backend::Backend;
use crate::net::syn::{Source, flood};
use crate::net::user;
use crate::story::figure;
use crate::story::frpc::{PATIENCE, Proxy};

/// The flooded port, and the neighbour's.
const PORTS: [u16; 2] = [20_040, 20_041];
/// The neighbour's users have an address of their own.
const NEIGHBOUR: &str = "10.77.2.3";
/// A connection that takes longer has failed.
const PATIENT: Duration = Duration::from_secs(2);
/// How many of a hundred of the neighbour's connections must succeed.
const GOAL: f64 = 95.0;
/// How much of a flood there must have been: who was sent less fared better for that.
const SENT: f64 = 0.9;

/// Floods at `rate` SYNs a second while the neighbour's users make `connections`, with forged sources
/// and from one address; with Totoro and without.
///
/// # Errors
/// The neighbour suffers more than it may, a flood fell short of its rate, or the lab can't be had.
pub fn play(rate: u32, connections: u32) -> Result<()> {
    println!("{connections} new connections of a neighbour during {rate} SYNs/s to another's port");
    let mut failed = Vec::new();
    for (name, fared) in guarded(rate, connections)? {
        if fared.good < GOAL || !fared.was_flooded(rate) {
            failed.push(format!("{name}: {fared}"));
        }
    }
    let alone = alone()?;
    for (name, source) in sources()? {
        let fared = measure(&alone.lab, source, rate, connections)?;
        println!("frps alone, {name}: {fared}");
        if !fared.was_flooded(rate) {
            failed.push(format!("frps alone, {name}: {fared}"));
        }
    }
    ensure!(
        failed.is_empty(),
        "below {GOAL} %, or below {SENT} of {rate} SYNs/s: {}",
        failed.join("; ")
    );
    Ok(())
}

/// The same with Totoro alone, and asks for nothing that depends on how busy the machine is.
///
/// # Errors
/// No connection of the neighbour's succeeded, no SYN was sent, one was counted as a connection, frps ended, or the lab
/// can't be had.
pub fn brief(rate: u32, connections: u32) -> Result<()> {
    for (name, fared) in guarded(rate, connections)? {
        ensure!(fared.good > 0.0 && fared.rate > 0.0, "{name}: {fared}");
    }
    Ok(())
}

/// How the neighbour fares with Totoro. What is flooded counts nothing.
fn guarded(rate: u32, connections: u32) -> Result<Vec<(&'static str, Fared)>> {
    let mut guarded = world("flood", &[])?;
    let clients = PORTS.map(|port| {
        let proxies = [Proxy::new("web", "tcp", guarded.backend.tcp, port)];
        Client::start(&guarded, &format!("p{port}"), ample(), Way::PLAIN, &proxies)
    });
    prepare(&guarded.lab)?;
    let mut all = Vec::new();
    for (name, source) in sources()? {
        let fared = measure(&guarded.lab, source, rate, connections)?;
        println!("with Totoro, {name}: {fared}");
        for what in ["conns", "admitted"] {
            let count = figure(&guarded, PORTS[0], what)?;
            ensure!(count == 0, "{name}: {what} of the flooded port is {count}");
        }
        all.push((name, fared));
    }
    let frps = guarded.frps.as_mut().context("frps runs")?;
    ensure!(frps.lives(), "frps ended");
    for client in clients {
        client?.frpc.stop();
    }
    Ok(all)
}

fn sources() -> Result<[(&'static str, Source); 2]> {
    Ok([
        ("forged sources", Source::Forged),
        ("one source", Source::Own(USER_V4.parse()?)),
    ])
}

/// How the neighbour fared.
struct Fared {
    good: f64,
    slowest: Duration,
    rate: f64,
}

impl Fared {
    /// Whether there was as much of a flood as there was to be.
    fn was_flooded(&self, rate: u32) -> bool {
        self.rate >= SENT * f64::from(rate)
    }
}

impl std::fmt::Display for Fared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fared {
            good,
            slowest,
            rate,
        } = self;
        write!(
            f,
            "{good:.1} % succeeded, slowest {slowest:.0?}, at {rate:.0} SYNs/s in truth"
        )
    }
}

fn measure(lab: &Lab, source: Source, rate: u32, connections: u32) -> Result<Fared> {
    let ns = lab.ns(Place::User);
    let door: Ipv4Addr = USERS_DOOR.parse()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (target, stop) = (SocketAddrV4::new(door, PORTS[0]), &stop);
        let flood = scope.spawn(move || flood(ns, target, source, rate, stop));
        // The flood is at its rate, and budgets' bursts are spent.
        std::thread::sleep(Duration::from_millis(500));
        let fared = neighbours(ns, SocketAddr::from((door, PORTS[1])), connections);
        stop.store(true, Ordering::SeqCst);
        let rate = flood.join().ok().context("the flood panicked")??;
        let (good, slowest) = fared?;
        Ok(Fared {
            good,
            slowest,
            rate,
        })
    })
}

/// New connections one after the other: how many of a hundred had an echo, and the slowest of those.
fn neighbours(ns: &Netns, to: SocketAddr, count: u32) -> Result<(f64, Duration)> {
    ns.run(|| {
        let (mut good, mut slowest) = (0, Duration::ZERO);
        for _ in 0..count {
            let begun = std::time::Instant::now();
            if visit(to).is_ok() {
                good += 1;
                slowest = slowest.max(begun.elapsed());
            }
        }
        Ok((f64::from(good) * 100.0 / f64::from(count), slowest))
    })
}

/// A user of the neighbour's: from its own address, one echo.
fn visit(to: SocketAddr) -> Result<()> {
    let socket = super::from(NEIGHBOUR)?;
    socket.connect_timeout(&to.into(), PATIENT)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENT))?;
    stream.write_all(b"hello")?;
    let mut back = [0; 5];
    stream.read_exact(&mut back)?;
    Ok(())
}

/// An address for the neighbour's users, and a way back to forged sources, as a router would be.
fn prepare(lab: &Lab) -> Result<()> {
    let neighbour = format!("{NEIGHBOUR}/24");
    lab.ns(Place::User)
        .ip(&["addr", "add", &neighbour, "dev", "eth0"])?;
    lab.ns(Place::Node)
        .ip(&["route", "add", "198.18.0.0/15", "via", USER_V4])
}

/// frps and frpc without Totoro, in a lab of their own.
struct Alone {
    lab: Lab,
    _backend: Backend,
    _running: [Process; 2],
}

fn alone() -> Result<Alone> {
    let tag = format!("{}-alone", lab::run_tag());
    let lab = Lab::raise(Tools::locate()?, Options { tag, keep: false })?;
    prepare(&lab)?;
    let backend = Backend::start(lab.ns(Place::Client))?;
    std::fs::write(lab.file("frps.toml"), "bindPort = 7000\n")?;
    let head = format!("serverAddr = \"{NODE_CLIENT_V4}\"\nserverPort = 7000\n");
    let proxies = PORTS.map(|port| Proxy::new(&format!("p{port}"), "tcp", backend.tcp, port));
    let text = crate::story::frpc::with_proxies(&head, &proxies);
    std::fs::write(lab.file("frpc.toml"), text)?;
    let start = |place, name: &str, tool| {
        let mut command = lab.command(tool);
        command.arg("-c").arg(lab.file(&format!("{name}.toml")));
        lab.start(place, name, command)
    };
    let mut frps = start(Place::Node, "frps", &lab.tools.frps)?;
    frps.wait_line("frps started successfully", PATIENCE)?;
    let mut frpc = start(Place::Client, "frpc", &lab.tools.frpc)?;
    for port in PORTS {
        frpc.wait_line(&format!("[p{port}] start proxy success"), PATIENCE)?;
    }
    user::fetch(lab.ns(Place::User), user::at(USERS_DOOR, PORTS[1])?)?;
    Ok(Alone {
        lab,
        _backend: backend,
        _running: [frps, frpc],
    })
}
