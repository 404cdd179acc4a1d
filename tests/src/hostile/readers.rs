//! Users who ask for much and read nothing: how other tenants fare, and how large frps becomes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::client::{Client, USERS_DOOR, Way, ample};
use super::world;
use crate::lab::Place;
use crate::net::user;
use crate::story::frpc::{PATIENCE, Proxy};
use crate::story::{World, figure, within};

/// What the node bears: its connections at 12 MiB each, as `check` computes it.
const TOTAL: u32 = 60;
/// The invite of those who don't read may have half of it.
const THEIRS: u32 = 30;
const PER_CONNECTION_MIB: u64 = 12;
const PORTS: [u16; 2] = [20_045, 20_046];
/// How much of its throughput the neighbour keeps.
const GOAL: f64 = 0.95;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Played {
    /// Who ask for data without end, in each round.
    pub readers: usize,
    /// How often they come, stay for a measurement, and go.
    pub rounds: usize,
    /// MiB that the neighbour's user reads for each measurement.
    pub mib: usize,
}

/// Plays it, and wants the neighbour to keep 0.95 of its throughput: the median of the rounds, each
/// compared with the measurements just before and after it, with nobody else there.
///
/// # Errors
/// What [`brief`] says, or the neighbour loses more.
pub fn play(played: Played) -> Result<()> {
    let kept = measure(played)?;
    ensure!(kept >= GOAL, "the neighbour keeps {kept:.2}, below {GOAL}");
    Ok(())
}

/// Plays it, and asks for nothing that depends on how busy the machine is.
///
/// # Errors
/// More are admitted than may be, or counted otherwise than they are; the neighbour is not served; frps
/// outgrows its memory, or ends.
pub fn brief(played: Played) -> Result<()> {
    measure(played).map(drop)
}

fn measure(played: Played) -> Result<f64> {
    let Played {
        readers,
        rounds,
        mib,
    } = played;
    let mut world = world("readers", &[("max_conns_total", "60")])?;
    let theirs = json!({ "max_conns": THEIRS, "max_conns_per_source": THEIRS });
    let bad = start(&world, "bad", theirs, PORTS[0])?;
    let good = start(&world, "good", ample(), PORTS[1])?;
    let frps = world.frps.as_ref().context("frps runs")?.pid();
    let (at_first, mut most) = (memory_mib(frps)?, 0);
    println!("{rounds} times {readers} readers that read nothing; MiB/s of a neighbour");
    let mut before = throughput(&world, mib)?;
    let (mut kept, mut quiet) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let held: Vec<TcpStream> = (0..readers)
            .filter_map(|_| pour(&world, PORTS[0]).ok())
            .collect();
        most = most.max(filled(frps)?);
        let during = throughput(&world, mib)?;
        let (admitted, counted) = (held.len(), figure(&world, PORTS[0], "conns")?);
        drop(held);
        ensure!(admitted <= THEIRS as usize, "{admitted} were admitted");
        ensure!(
            counted == admitted as u64,
            "{counted} are counted of {admitted}"
        );
        within(PATIENCE, || {
            Ok((figure(&world, PORTS[0], "conns")? == 0).then_some(()))
        })
        .context("the readers are counted on")?;
        let after = throughput(&world, mib)?;
        println!(
            "round {}: {before:.0} before, {during:.0} with {admitted} of them, {after:.0} after",
            round + 1
        );
        kept.push(during * 2.0 / (before + after));
        quiet.push(after / before);
        before = after;
    }
    let limit = u64::from(TOTAL) * PER_CONNECTION_MIB;
    let (kept, quiet) = (median(&mut kept), median(&mut quiet));
    println!(
        "the neighbour keeps {kept:.2} (medians; without them, from one to the next: {quiet:.2})"
    );
    println!("frps: {at_first} MiB before, {most} MiB with them; {limit} MiB are allowed for");
    ensure!(most <= limit, "frps outgrows its memory");
    let frps = world.frps.as_mut().context("frps runs")?;
    ensure!(frps.lives(), "frps ended");
    for client in [bad, good] {
        client.frpc.stop();
    }
    Ok(kept)
}

fn start(world: &World, name: &str, limits: serde_json::Value, port: u16) -> Result<Client> {
    let proxies = [Proxy::new("web", "tcp", world.backend.tcp, port)];
    Client::start(world, name, limits, Way::PLAIN, &proxies)
}

/// Asks for data without end.
fn pour(world: &World, port: u16) -> Result<TcpStream> {
    let to = user::at(USERS_DOOR, port)?;
    let mut stream = user::connect(world.lab.ns(Place::User), to)?;
    stream.write_all(b"POUR")?;
    Ok(stream)
}

/// Waits until frps has taken for the readers what it takes: until then they are users like others, and
/// share the way with them. Its memory then, MiB.
fn filled(frps: u32) -> Result<u64> {
    let (begun, mut before) = (Instant::now(), 0);
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = memory_mib(frps)?;
        if now <= before + 1 || begun.elapsed() > Duration::from_secs(20) {
            return Ok(now);
        }
        before = now;
    }
}

/// What a user of the neighbour's reads as fast as it comes, once it flows: MiB per second. Nothing is done
/// with it, so that the tunnel is measured and not the user.
fn throughput(world: &World, mib: usize) -> Result<f64> {
    let mut stream = pour(world, PORTS[1])?;
    let mut buffer = vec![0; 1 << 20];
    stream.read_exact(&mut buffer).context("the first MiB")?;
    let begun = Instant::now();
    for nth in 0..mib {
        let read = stream.read_exact(&mut buffer);
        read.with_context(|| format!("after {nth} MiB"))?;
    }
    Ok(mib as f64 / begun.elapsed().as_secs_f64())
}

/// The middle of some figures, of which there is one at least.
fn median(figures: &mut [f64]) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Resident memory of a process.
fn memory_mib(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("frps's status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("no VmRSS")? / 1024)
}
