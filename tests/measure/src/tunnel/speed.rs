//! What gets through a tunnel without limits, and how long a word takes there and back: with nothing at the
//! node's door, below Totoro without XDP, below an XDP program that does nothing, and below Totoro's.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use totoro_report::{Better, Figure, Relative, Run};
use totoro_tests::hostile::client::{USERS_DOOR, ample};
use totoro_tests::lab;
use totoro_tests::net::user;

use super::drive::quantiles;
use super::place::{Maker, Place, Tenant, generations, raise};
use super::rules::{Mode, Verdict, xdp};
use super::{Args, NOTHING, TOTORO, TWIN, samples};
use crate::Progress;

/// The tunnel's port.
pub(super) const PORT: u16 = 20_000;

pub(super) const NATIVE: &str = "Totoro, native";
pub(super) const GENERIC: &str = "Totoro, generic";
const EMPTY_NATIVE: &str = "empty XDP, native";
const EMPTY_GENERIC: &str = "empty XDP, generic";

/// Words of a round.
const WORDS: usize = 1_000;

/// One measurement.
#[derive(Clone, Copy)]
struct Speed {
    /// MiB per second.
    throughput: f64,
    /// Processor time of what is on the node for each MiB, ms.
    cost: f64,
    /// ms.
    p50: f64,
    p99: f64,
}

/// Measures.
///
/// # Errors
/// A lab can't be had, or a tunnel does not carry.
pub(super) fn measure(args: &Args, run: &mut Run, progress: &Progress) -> Result<()> {
    let mut chosen = String::new();
    let make = |generation| {
        let places = places(generation)?;
        chosen = filter_of(&places, TOTORO)?;
        Ok((places, ()))
    };
    let says = |what: &str| progress.says(&format!("tunnels, {what}"));
    let (names, all) = generations(args, args.rounds, says, make, |place, ()| {
        speed(place, args)
    })?;
    run.baseline(
        EMPTY_NATIVE,
        "two instructions, on both interfaces, in the driver",
    );
    run.baseline(EMPTY_GENERIC, "the same, after the driver");
    run.baseline(NATIVE, "this commit's, with xdp = native");
    run.baseline(GENERIC, "this commit's, with xdp = generic");
    run.note(format!(
        "Tunnels: one connection through frps and frpc, {} s of download after a quarter of it as a run-up, \
         and {WORDS} words of 8 bytes there and back. Totoro's row has xdp = auto, which chose {chosen} on \
         the lab's veth: no XDP; the rows native and generic are set to it.",
        args.seconds
    ));
    tell(run, &names, &all);
    Ok(())
}

/// How a place of Totoro's filters.
fn filter_of(places: &[Place], name: &str) -> Result<String> {
    let place = places.iter().find(|place| place.name == name);
    let filter = place.context("the place")?.filter("us0")?;
    filter.with_context(|| format!("{name} does not filter"))
}

fn places(generation: usize) -> Result<Vec<Place>> {
    let stock = |name| -> Maker { Box::new(move || Place::stock(name, &[tenant(PORT)], "")) };
    let empty = |name, mode| -> Maker {
        Box::new(move || {
            let place = Place::stock(name, &[tenant(PORT)], "")?;
            xdp(place.lab(), &["cl0", "us0"], Verdict::Pass, mode)?;
            Ok(place)
        })
    };
    let ours =
        |name, xdp| -> Maker { Box::new(move || Place::guarded(name, &[tenant(PORT)], xdp)) };
    // Who is compared comes one after the other.
    let makers = [
        stock(TWIN),
        stock(NOTHING),
        ours(TOTORO, "\"auto\""),
        empty(EMPTY_NATIVE, Mode::Native),
        ours(NATIVE, "\"native\""),
        empty(EMPTY_GENERIC, Mode::Generic),
        ours(GENERIC, "\"generic\""),
    ];
    let places = raise(&makers, generation)?;
    for (name, kind) in [(NATIVE, "xdp-native"), (GENERIC, "xdp-generic")] {
        let filter = filter_of(&places, name)?;
        ensure!(filter == kind, "{name} filters by {filter}");
    }
    Ok(places)
}

/// An invite with one port, and limits in nobody's way.
pub(super) fn tenant(port: u16) -> Tenant {
    let mut limits = ample();
    limits["conn_rate"] = json!(100_000);
    Tenant {
        name: "tenant",
        limits,
        ports: vec![port],
    }
}

fn speed(place: &Place, args: &Args) -> Result<Speed> {
    let to = user::at(USERS_DOOR, PORT)?;
    place.lab().ns(lab::Place::User).run(|| {
        let before = place.processor()?;
        let (throughput, read) = download(to, Duration::from_secs_f64(args.seconds))?;
        let spent = place.processor()? - before;
        let [p50, p99] = words(to)?;
        Ok(Speed {
            throughput,
            cost: spent.as_secs_f64() * 1000.0 / read,
            p50,
            p99,
        })
    })
}

/// MiB per second that a user reads, and all MiB, with those of the run-up.
pub(super) fn download(to: SocketAddr, time: Duration) -> Result<(f64, f64)> {
    let mut stream = pour(to)?;
    let mut buffer = vec![0; 256 << 10];
    let mut read = |time: Duration| -> Result<(f64, f64)> {
        let (begun, mut bytes) = (Instant::now(), 0);
        while begun.elapsed() < time {
            let read = stream.read(&mut buffer).context("read the download")?;
            ensure!(read > 0, "the download ended");
            bytes += read;
        }
        let read = bytes as f64 / f64::from(1 << 20);
        Ok((read, read / begun.elapsed().as_secs_f64()))
    };
    let (before, _) = read(time / 4)?;
    let (read, throughput) = read(time)?;
    Ok((throughput, before + read))
}

/// Asks for as much as is taken.
fn pour(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = user::connect_here(to)?;
    stream.write_all(b"P")?;
    Ok(stream)
}

/// Half of the words took no longer, and 99 of 100, ms.
fn words(to: SocketAddr) -> Result<[f64; 2]> {
    let mut stream = user::connect_here(to)?;
    stream.write_all(b"E")?;
    let took = (0..WORDS).map(|_| user::exchange(&mut stream, b"8 bytes!"));
    Ok(quantiles(took.collect::<Result<_>>()?))
}

fn tell(run: &mut Run, names: &[&str], all: &[Vec<Speed>]) {
    let beside = [
        (TOTORO, NOTHING),
        (NATIVE, EMPTY_NATIVE),
        (GENERIC, EMPTY_GENERIC),
    ];
    type Part = (&'static str, &'static str, Better, fn(&Speed) -> f64);
    let parts: [Part; 4] = [
        ("throughput", "MiB/s", Better::More, |one| one.throughput),
        (
            "processor of the node for a MiB",
            "ms",
            Better::Less,
            |one| one.cost,
        ),
        ("a word's way, p50", "ms", Better::Less, |one| one.p50),
        ("a word's way, p99", "ms", Better::Less, |one| one.p99),
    ];
    for (what, unit, better, part) in parts {
        let of = |name: &str| samples(names, name, all, part);
        for name in names.iter().filter(|name| **name != NOTHING) {
            let figure = Figure::new(what, name, unit, better, of(name));
            let base = beside.iter().find(|(ours, _)| ours == name);
            let goal = match better {
                Better::More => Relative::at_least(0.98),
                _ => Relative::at_most(1.02),
            };
            let figure = match base {
                Some((_, base)) => figure.against(base, &of(base), Some(goal)),
                None => figure,
            };
            let figure = match base {
                Some((_, base)) if *base == NOTHING => figure,
                _ => figure.against(NOTHING, &of(NOTHING), None),
            };
            run.add(figure);
        }
    }
    // What auto chose, beside what it did not choose.
    let of = |name: &str| samples(names, name, all, |one| one.throughput);
    let figure = Figure::new("what auto chose", TOTORO, "MiB/s", Better::More, of(TOTORO));
    let figure = figure.against(NATIVE, &of(NATIVE), Some(Relative::at_least(1.0)));
    run.add(figure.against(GENERIC, &of(GENERIC), Some(Relative::at_least(0.98))));
}
