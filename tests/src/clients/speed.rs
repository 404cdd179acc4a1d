//! `totoro` against a stock frpc started by hand: from the start to the first byte, and what gets through.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

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
/// What was measured: a sample of each in each round.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// From the start of frpc to the first byte, ms.
    pub stock_ms: Vec<f64>,
    /// From the start of totoro to the first byte, ms.
    pub totoro_ms: Vec<f64>,
    /// Bytes per second through the stock frpc.
    pub stock_rate: Vec<f64>,
    /// Bytes per second through the client's.
    pub totoro_rate: Vec<f64>,
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
pub fn play(rounds: usize, downloads: usize) -> Result<Samples> {
    ensure!(rounds > 0 && downloads > 0, "nothing is to be measured");
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
    let mut samples = Samples::default();
    for round in 0..rounds {
        // In turns, and each first as often as the other.
        let (hand, client) = if round % 2 == 0 {
            let hand = by_hand_start(&world, &ways)?;
            (hand, client_start(&world, &ways)?)
        } else {
            let client = client_start(&world, &ways)?;
            (by_hand_start(&world, &ways)?, client)
        };
        samples.stock_ms.push(hand);
        samples.totoro_ms.push(client);
    }
    let frpc = start_by_hand(&world, &ways)?;
    let mut totoro = start_client(&world, &ways)?;
    totoro.event("running")?;
    first_byte(&world, PORTS[0])?;
    for round in 0..downloads {
        let mut rates = [0.0; 2];
        for turn in 0..2 {
            let which = (round + turn) % 2;
            rates[which] = download(&world, PORTS[which])?;
        }
        samples.stock_rate.push(rates[0]);
        samples.totoro_rate.push(rates[1]);
    }
    frpc.stop();
    totoro.interrupt()?;
    Ok(samples)
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
