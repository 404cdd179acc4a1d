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

/// What frps may have by its unit (`MemoryMax`), to which its environment fits, MiB.
const MEMORY_MIB: u64 = 2048;
/// What the node bears then: its connections at 12 MiB each, as `check` computes it.
const TOTAL: &str = "170";
const PORTS: [u16; 2] = [20_045, 20_046];
/// Below that in half a second nobody is served any more, bytes: connections that stand still are probed now and then.
const FLOWS: u64 = 1 << 20;
/// How much of its throughput the neighbour keeps.
const GOAL: f64 = 0.95;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Played {
    /// Who ask for data without end, in each round.
    pub readers: usize,
    /// How many of them their invite allows.
    pub allowed: usize,
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
        allowed,
        rounds,
        mib,
    } = played;
    let mut world = world("readers", &[("max_conns_total", TOTAL)])?;
    let theirs = json!({ "max_conns": allowed, "max_conns_per_source": allowed });
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
        most = most.max(filled(&world, frps)?);
        let during = throughput(&world, mib)?;
        let (admitted, counted) = (held.len(), figure(&world, PORTS[0], "conns")?);
        drop(held);
        ensure!(admitted <= allowed, "{admitted} were admitted");
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
    let (kept, quiet) = (median(&mut kept), median(&mut quiet));
    println!(
        "the neighbour keeps {kept:.2} (medians; without them, from one to the next: {quiet:.2})"
    );
    println!("frps: {at_first} MiB before, {most} MiB with them; it may have {MEMORY_MIB}");
    ensure!(most <= MEMORY_MIB, "frps outgrows its memory");
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

/// Waits until frps and the sockets beyond it have taken for the readers what they take: until then they are users
/// like others, and share the way with them. The most that frps had, MiB.
fn filled(world: &World, frps: u32) -> Result<u64> {
    let (begun, mut before, mut most) = (Instant::now(), 0, 0);
    loop {
        std::thread::sleep(Duration::from_millis(500));
        most = most.max(memory_mib(frps)?);
        let sent = figure(world, PORTS[0], "bytes_out")?;
        if sent - before < FLOWS || begun.elapsed() > Duration::from_secs(60) {
            return Ok(most);
        }
        before = sent;
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
