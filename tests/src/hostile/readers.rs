//! Users who ask for much and read nothing: how other tenants fare, and how large frps becomes.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::client::{Client, USERS_DOOR, Way, ample};
use super::world;
use crate::lab::Place;
use crate::net::user;
use crate::story::World;
use crate::story::frpc::Proxy;

/// What the node bears: its connections at 12 MiB each, as `check` computes it.
const TOTAL: u32 = 60;
/// The invite of those who don't read may have half of it.
const THEIRS: u32 = 30;
const PER_CONNECTION_MIB: u64 = 12;
const PORTS: [u16; 2] = [20_045, 20_046];
/// How much of its throughput the neighbour keeps.
const GOAL: f64 = 0.95;

/// Plays it with so many readers, and so many pages for each measurement.
///
/// # Errors
/// frps outgrows its memory, or the neighbour loses more than it may.
pub fn play(readers: usize, pages: u32) -> Result<()> {
    let world = world("readers", &[("max_conns_total", "60")])?;
    let theirs = json!({ "max_conns": THEIRS, "max_conns_per_source": THEIRS });
    let bad = start(&world, "bad", theirs, PORTS[0])?;
    let good = start(&world, "good", ample(), PORTS[1])?;
    let frps = world.frps.as_ref().context("frps runs")?.pid();
    let before = throughput(&world, pages)?;
    let at_first = memory_mib(frps)?;
    let (mut held, mut refused) = (Vec::new(), 0);
    for _ in 0..readers {
        match pour(&world) {
            Ok(stream) => held.push(stream),
            Err(_) => refused += 1,
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    let during = throughput(&world, pages)?;
    let memory = memory_mib(frps)?;
    let after = {
        let held = held.len();
        println!("{readers} readers that read nothing: {held} admitted, {refused} refused");
        drop(bad.frpc);
        std::thread::sleep(Duration::from_secs(1));
        throughput(&world, pages)?
    };
    // What else the machine did meanwhile is in both.
    let kept = during * 2.0 / (before + after);
    let limit = u64::from(TOTAL) * PER_CONNECTION_MIB;
    println!(
        "a neighbour: {before:.0}, {during:.0} (with them), {after:.0} MiB/s: keeps {:.0} %",
        kept * 100.0
    );
    println!("frps: {at_first} MiB before, {memory} MiB with them; {limit} MiB are allowed for");
    good.frpc.stop();
    ensure!(held.len() <= THEIRS as usize, "{} admitted", held.len());
    ensure!(memory <= limit, "frps outgrows its memory");
    ensure!(kept >= GOAL, "the neighbour keeps less than {GOAL}");
    Ok(())
}

fn start(world: &World, name: &str, limits: serde_json::Value, port: u16) -> Result<Client> {
    let proxies = [Proxy::new("web", "tcp", world.backend.tcp, port)];
    Client::start(world, name, limits, Way::PLAIN, &proxies)
}

/// Asks for data without end.
fn pour(world: &World) -> Result<TcpStream> {
    let to = user::at(USERS_DOOR, PORTS[0])?;
    let mut stream = user::connect(world.lab.ns(Place::User), to)?;
    stream.write_all(b"POUR")?;
    Ok(stream)
}

/// Pages of 1 MiB one after the other: MiB per second.
fn throughput(world: &World, pages: u32) -> Result<f64> {
    let to = user::at(USERS_DOOR, PORTS[1])?;
    let begun = Instant::now();
    for _ in 0..pages {
        user::fetch(world.lab.ns(Place::User), to)?;
    }
    Ok(f64::from(pages) / begun.elapsed().as_secs_f64())
}

/// Resident memory of a process.
fn memory_mib(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).context("frps's status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.context("no VmRSS")? / 1024)
}
