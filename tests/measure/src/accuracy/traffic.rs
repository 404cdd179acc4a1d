//! The counters of a lease beside a capture of the same wire: every byte and packet that they do not have
//! is named.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use totoro_ebpf::abi::{TCP, Traffic, UDP};
use totoro_report::{Better, Figure, Goal, Run};
use totoro_tests::hostile::client::USERS_DOOR;
use totoro_tests::hostile::quiet_world;
use totoro_tests::lab::{NODE_USER_V6, Place};
use totoro_tests::net::user;
use totoro_tests::story::within;

use super::Args;
use super::explain::{Explained, Totals, explain};
use super::stage::{PORT, Stage, key};
use crate::Progress;
use crate::net::capture::{Capture, Frame};
use crate::net::truth::sockets;

const PATIENCE: Duration = Duration::from_secs(20);
/// Connections of a scenario, by IPv4 and IPv6 in turn.
const CONNECTIONS: usize = 20;
/// What the bulk scenarios move, bytes for each connection.
const BULK: usize = 2 << 20;
/// Datagrams of a round, there and back.
const DATAGRAMS: usize = 200;
/// Those of them that no frame of the lab takes: in fragments each way. frp carries up to 1,500 bytes.
const FRAGMENTED: usize = 54;
const LARGE: std::ops::RangeInclusive<usize> = 1_474..=1_500;

/// What users do, one connection after the other.
type Scenario = (&'static str, fn(&mut TcpStream) -> Result<()>);

const SCENARIOS: [Scenario; 5] = [
    ("the user ends first", |stream| {
        talk(stream)?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    }),
    ("the service ends first", |stream| {
        stream.write_all(b"C")?;
        user::exchange(stream, b"one word")?;
        ensure!(stream.read(&mut [0])? == 0, "the service goes on");
        Ok(())
    }),
    ("the user resets", |stream| {
        talk(stream)?;
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }),
    ("a download, cut off by the user", |stream| {
        stream.write_all(b"P")?;
        let mut buffer = vec![0; 64 << 10];
        for _ in 0..BULK / buffer.len() {
            stream.read_exact(&mut buffer)?;
        }
        Ok(())
    }),
    ("an upload, and its echo", |stream| {
        stream.write_all(b"E")?;
        let mut reader = stream.try_clone()?;
        std::thread::scope(|scope| {
            let back = scope.spawn(move || reader.read_exact(&mut vec![0; BULK]));
            stream.write_all(&vec![7; BULK])?;
            back.join()
                .ok()
                .context("the reader panicked")?
                .context("the echo")
        })?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    }),
];

fn talk(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"E")?;
    for nth in 0..5 {
        user::exchange(stream, &[nth; 100])?;
    }
    Ok(())
}

/// Measures.
///
/// # Errors
/// The lab can't be had, a user is not served, or the capture lost a frame.
pub(super) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    run.note(
        "Traffic: the lease's counters beside a capture of the node's wire in the same seconds. Not counted \
         are a handshake's three frames, and what the third one carries (the socket is tagged by it); and \
         what comes after the node's socket is gone (one that is busy when a reset arrives still has some of the \
         next frames, whole ones). Unexplained is what is left of the difference.",
    );
    for (part, xdp) in [
        ("traffic", "\"auto\""),
        ("traffic, native XDP", "\"native\""),
    ] {
        compare(args, run, progress, part, xdp)?;
    }
    Ok(())
}

/// The scenarios, at a node that filters in this way.
fn compare(
    args: &Args,
    run: &mut Run,
    progress: &Progress,
    part: &str,
    xdp: &'static str,
) -> Result<()> {
    let world = quiet_world("acc-traffic", &[("xdp", xdp)])?;
    let limits = json!({ "max_conns": 200, "max_conns_per_source": 50_000, "conn_rate": 10_000,
        "max_flows": 50_000, "max_proxies": 2 });
    let stage = Stage::raise(world, limits)?;
    let mut played: [Vec<Played>; SCENARIOS.len()] = Default::default();
    let mut datagrams = [Vec::new(), Vec::new()];
    for round in 1..=args.rounds {
        for ((name, act), played) in SCENARIOS.iter().zip(&mut played) {
            let one = stage
                .play(*act)
                .with_context(|| format!("traffic: {name}"))?;
            if one.off() != (0, 0) {
                run.note(format!(
                    "Not explained ({part}, {name}): {}",
                    one.told.beside(&one.counted)
                ));
            }
            played.push(one);
        }
        let small: Vec<usize> = (0..DATAGRAMS).map(|nth| 1 + nth * 6).collect();
        datagrams[0].push(stage.datagrams(&small, 1).context("traffic: datagrams")?);
        let large: Vec<usize> = LARGE.cycle().take(FRAGMENTED).collect();
        datagrams[1].push(stage.datagrams(&large, 2).context("traffic: fragments")?);
        progress.says(&format!("{part}, round {round} of {}", args.rounds));
    }
    for ((name, _), played) in SCENARIOS.iter().zip(&played) {
        tell(run, part, name, played);
    }
    for (which, datagrams) in [("datagrams", 0), ("datagrams in fragments", 1)]
        .map(|(which, nth)| (which, &datagrams[nth]))
    {
        let (bytes, packets): (Vec<_>, Vec<_>) = datagrams
            .iter()
            .map(|(bytes, packets)| (*bytes as f64, *packets as f64))
            .unzip();
        for (what, samples) in [
            ("bytes counted otherwise", bytes),
            ("counted otherwise", packets),
        ] {
            let name = format!("{which}: {what}");
            run.add(Figure::new(part, &name, "", Better::Less, samples).goal(none()));
        }
    }
    stage.end();
    Ok(())
}

fn none() -> Goal {
    Goal::at_most(0.0).each()
}

fn tell(run: &mut Run, part: &str, name: &str, played: &[Played]) {
    let of = |of: &dyn Fn(&Played) -> u64| -> Vec<f64> {
        played.iter().map(|one| of(one) as f64).collect()
    };
    let mut add = |what: &str, unit: &'static str, goal: bool, samples: Vec<f64>| {
        let better = if goal { Better::Less } else { Better::Neither };
        let mut figure = Figure::new(part, &format!("{name}: {what}"), unit, better, samples);
        if goal {
            figure = figure.goal(none());
        }
        run.add(figure);
    };
    add("captured", "B", false, of(&|one| one.told.captured.all()));
    add(
        "of it handshakes",
        "B",
        false,
        of(&|one| one.told.handshakes.all()),
    );
    add(
        "of it after the end",
        "B",
        false,
        of(&|one| one.told.late.all()),
    );
    add(
        "late frames taken as counted",
        "",
        false,
        of(&Played::taken),
    );
    add("unexplained", "B", true, of(&|one| one.off().0));
    add("unexplained packets", "", true, of(&|one| one.off().1));
    add(
        "connections counted otherwise",
        "",
        true,
        of(&|one| one.connections),
    );
}

/// A scenario's capture, and what was counted.
#[derive(Clone, Debug)]
struct Played {
    told: Explained,
    counted: Totals,
    /// How many more or fewer connections the counters have than the capture.
    connections: u64,
}

impl Played {
    /// Bytes and packets that are not explained, both ways together.
    fn off(&self) -> (u64, u64) {
        self.told.off(&self.counted)
    }

    /// Frames behind a reset that the counters have.
    fn taken(&self) -> u64 {
        self.told.taken(&self.counted)
    }
}

fn off(truth: &Totals, counted: &Totals) -> (u64, u64) {
    let differ = |one: [u64; 2], other: [u64; 2]| -> u64 {
        one.iter()
            .zip(other)
            .map(|(one, other)| one.abs_diff(other))
            .sum()
    };
    (
        differ(truth.bytes, counted.bytes),
        differ(truth.packets, counted.packets),
    )
}

impl Stage {
    /// Has users act, and compares.
    fn play(&self, act: fn(&mut TcpStream) -> Result<()>) -> Result<Played> {
        let (before, admitted) = (self.traffic(TCP)?, self.admitted()?);
        let capture = self.capture()?;
        let users = self.world.lab.ns(Place::User);
        users.run(|| {
            for nth in 0..CONNECTIONS {
                let mut stream = user::connect_here(door(nth)?)?;
                act(&mut stream)?;
            }
            Ok(())
        })?;
        let lab = &self.world.lab;
        within(PATIENCE, || {
            Ok((sockets(lab, &[PORT])?[0].live == 0).then_some(()))
        })
        .context("connections go on")?;
        let frames = capture.finish()?;
        let told = explain(&frames);
        let connections = (self.admitted()? - admitted).abs_diff(told.connections);
        let counted = since(&self.traffic(TCP)?, &before);
        Ok(Played {
            told,
            counted,
            connections,
        })
    }

    /// Datagrams of these sizes there and back, each in so many frames: bytes and packets that are counted
    /// otherwise than captured.
    fn datagrams(&self, sizes: &[usize], frames_each: usize) -> Result<(u64, u64)> {
        let count = sizes.len();
        let before = self.traffic(UDP)?;
        let capture = self.capture()?;
        let users = self.world.lab.ns(Place::User);
        for (nth, size) in sizes.iter().enumerate() {
            user::echo(users, door(nth)?, &vec![7; *size])?;
        }
        let frames = capture.finish()?;
        let mut truth = Totals::default();
        let datagrams: Vec<&Frame> = frames.iter().filter(|frame| frame.proto == UDP).collect();
        ensure!(
            datagrams.len() >= 2 * count * frames_each,
            "the capture missed datagrams"
        );
        for frame in datagrams {
            truth.add(frame);
        }
        Ok(off(&truth, &since(&self.traffic(UDP)?, &before)))
    }

    fn capture(&self) -> Result<Capture> {
        Capture::start(self.world.lab.ns(Place::Node), "us0", &[PORT])
    }

    fn traffic(&self, proto: u8) -> Result<Traffic> {
        Ok(self.kernel.traffic(self.tenant, key(proto))?)
    }

    fn admitted(&self) -> Result<u64> {
        let all = self.kernel.tenants()?;
        let row = all.iter().find(|(number, ..)| *number == self.tenant);
        Ok(row
            .context("the tenant is not in the kernel")?
            .2
            .usage
            .admitted)
    }
}

fn since(after: &Traffic, before: &Traffic) -> Totals {
    Totals {
        bytes: [
            after.bytes_in - before.bytes_in,
            after.bytes_out - before.bytes_out,
        ],
        packets: [
            after.packets_in - before.packets_in,
            after.packets_out - before.packets_out,
        ],
    }
}

/// The node's door for a connection, by IPv4 and IPv6 in turn.
fn door(nth: usize) -> Result<SocketAddr> {
    user::at([USERS_DOOR, NODE_USER_V6][nth % 2], PORT)
}
