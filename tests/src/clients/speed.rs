//! `totoro` against a stock frpc started by hand: from the start to the first byte, and what gets through.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{PATIENCE, Totoro};
use crate::hostile::world;
use crate::lab::{NODE_USER_V4, Place, Process};
use crate::net::user;
use crate::story::World;
use crate::story::frpc::{self, Proxy};

/// The public ports: the stock frpc's, the client's.
const PORTS: [u16; 2] = [20_010, 20_020];
/// How long one try to connect may take.
const TRY: Duration = Duration::from_millis(10);
/// How long a download is read.
const SPAN: Duration = Duration::from_secs(1);
/// The most that a start may take, as a multiple of the stock frpc's.
const START_GOAL: f64 = 1.5;
/// The least of its throughput.
const THROUGHPUT_GOAL: f64 = 0.99;

/// Medians.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// From the start of frpc to the first byte, ms.
    stock_ms: f64,
    /// From the start of totoro to the first byte, ms.
    totoro_ms: f64,
    /// The median of each round's ratio.
    start: f64,
    /// Bytes per second through the stock frpc.
    stock_rate: f64,
    /// Bytes per second through the client's.
    totoro_rate: f64,
    /// The median of each round's ratio.
    throughput: f64,
}

impl Figures {
    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!([
            { "what": "first byte, stock frpc", "is": self.stock_ms, "unit": "ms" },
            { "what": "first byte, totoro", "is": self.totoro_ms, "unit": "ms" },
            { "what": "first byte, ratio", "is": self.start, "goal": START_GOAL },
            { "what": "download, stock frpc", "is": self.stock_rate, "unit": "B/s" },
            { "what": "download, totoro", "is": self.totoro_rate, "unit": "B/s" },
            { "what": "download, ratio", "is": self.throughput, "goal": THROUGHPUT_GOAL },
        ])
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let met = |is: bool| if is { "met" } else { "**missed**" };
        let mib = |rate: f64| rate / f64::from(1 << 20);
        format!(
            "| what | stock frpc | totoro | ratio | goal | |\n|---|---:|---:|---:|---:|---|\n\
             | start to first byte, ms | {:.1} | {:.1} | {:.2} | ≤ {START_GOAL} | {} |\n\
             | download, MiB/s | {:.0} | {:.0} | {:.3} | ≥ {THROUGHPUT_GOAL} | {} |",
            self.stock_ms,
            self.totoro_ms,
            self.start,
            met(self.start <= START_GOAL),
            mib(self.stock_rate),
            mib(self.totoro_rate),
            self.throughput,
            met(self.throughput >= THROUGHPUT_GOAL),
        )
    }
}

/// What one of both runs with.
struct Ways {
    /// The stock frpc's file.
    file: String,
    proxy: Proxy,
    /// The client's code.
    code: String,
    service: String,
}

/// Measures.
///
/// # Errors
/// The lab does not come up, or no byte comes through.
pub fn play(rounds: usize, downloads: usize) -> Result<Figures> {
    let world = world("cl-speed", &[])?;
    let limits =
        || json!({ "max_conns": 2000, "max_clients": 4, "max_proxies": 4, "conn_rate": 10000 });
    let by_hand = world.invite("by-hand", limits())?;
    let proxy = Proxy::new("page", "tcp", world.backend.tcp, PORTS[0]);
    let generated = world.resolve(&by_hand.code)?.frpc_toml;
    let ways = Ways {
        file: frpc::with_proxies(&generated, std::slice::from_ref(&proxy)),
        proxy,
        code: world.invite("client", limits())?.code,
        service: world.backend.tcp.to_string(),
    };
    let (mut stock, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        // In turns, and each first as often as the other.
        let (hand, client) = if round % 2 == 0 {
            let hand = by_hand_start(&world, &ways)?;
            (hand, client_start(&world, &ways)?)
        } else {
            let client = client_start(&world, &ways)?;
            (by_hand_start(&world, &ways)?, client)
        };
        ratios.push(client / hand);
        stock.push(hand);
        ours.push(client);
    }
    let frpc = start_by_hand(&world, &ways)?;
    let mut totoro = start_client(&world, &ways)?;
    totoro.event("running")?;
    first_byte(&world, PORTS[0])?;
    let (mut hand_rates, mut our_rates, mut gains) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..downloads {
        let mut rates = [0.0; 2];
        for turn in 0..2 {
            let which = (round + turn) % 2;
            rates[which] = download(&world, PORTS[which])?;
        }
        gains.push(rates[1] / rates[0]);
        hand_rates.push(rates[0]);
        our_rates.push(rates[1]);
    }
    frpc.stop();
    totoro.interrupt()?;
    Ok(Figures {
        stock_ms: median(&mut stock)?,
        totoro_ms: median(&mut ours)?,
        start: median(&mut ratios)?,
        stock_rate: median(&mut hand_rates)?,
        totoro_rate: median(&mut our_rates)?,
        throughput: median(&mut gains)?,
    })
}

fn start_by_hand(world: &World, ways: &Ways) -> Result<Process> {
    frpc::start(world, "by-hand", &ways.file).with_context(|| ways.proxy.name.clone())
}

fn start_client(world: &World, ways: &Ways) -> Result<Totoro> {
    let port = PORTS[1].to_string();
    let words = ["tcp", &ways.service, "--remote-port", &port];
    Totoro::start(world, "client", &words, Some(&ways.code), None)
}

fn by_hand_start(world: &World, ways: &Ways) -> Result<f64> {
    let begun = Instant::now();
    let frpc = start_by_hand(world, ways)?;
    first_byte(world, PORTS[0])?;
    let took = begun.elapsed();
    frpc.stop();
    Ok(took.as_secs_f64() * 1000.0)
}

fn client_start(world: &World, ways: &Ways) -> Result<f64> {
    let begun = Instant::now();
    let totoro = start_client(world, ways)?;
    first_byte(world, PORTS[1])?;
    let took = begun.elapsed();
    totoro.interrupt()?;
    Ok(took.as_secs_f64() * 1000.0)
}

/// Waits until a user hears an echo. What nobody holds yet is dropped, so a try that waited for the
/// kernel's next SYN would take a second.
fn first_byte(world: &World, port: u16) -> Result<()> {
    let door = user::at(NODE_USER_V4, port)?;
    world.lab.ns(Place::User).run(|| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let echoed = TcpStream::connect_timeout(&door, TRY)
                .map_err(anyhow::Error::from)
                .and_then(|mut stream| {
                    stream.set_read_timeout(Some(PATIENCE))?;
                    user::exchange(&mut stream, b"first")
                });
            match echoed {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    })
}

/// Bytes per second that a user reads.
fn download(world: &World, port: u16) -> Result<f64> {
    let mut stream = user::connect(world.lab.ns(Place::User), user::at(NODE_USER_V4, port)?)?;
    stream.write_all(b"POUR")?;
    let mut buffer = vec![0; 256 << 10];
    // The first part only brings it up to speed.
    let (mut begun, mut count) = (Instant::now(), 0);
    let mut warm = false;
    while begun.elapsed() < SPAN {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "the download ended");
        count += read;
        if !warm && begun.elapsed() > SPAN / 4 {
            (warm, begun, count) = (true, Instant::now(), 0);
        }
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

pub(super) fn median(values: &mut [f64]) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.get(values.len() / 2);
    middle.copied().context("nothing was measured")
}
