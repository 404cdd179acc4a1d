//! Clients that cost little, since they share the machine with what they measure: requests are bytes
//! made once, an answer is read up to its length and only its status is looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::series::Series;
use crate::timer::Timer;

/// What is asked of a server, as it goes over the wire.
#[derive(Clone)]
pub(crate) struct Request {
    address: String,
    bytes: Arc<Vec<Vec<u8>>>,
    order: Order,
    status: &'static str,
}

/// Which request is next.
#[derive(Clone)]
enum Order {
    /// Each is sent once, by whoever is next; a measurement ends early when there is none.
    Once(Arc<AtomicUsize>),
    /// All over again and again, by whoever is next.
    Again(Arc<AtomicUsize>),
    /// A client has so many of its own, and sends them again and again.
    Own(usize),
}

impl Request {
    fn of(server: &str, bytes: Vec<Vec<u8>>, order: Order, status: &'static str) -> Self {
        Request {
            address: server.trim_start_matches("http://").to_owned(),
            bytes: Arc::new(bytes),
            order,
            status,
        }
    }

    /// These ones, each once.
    pub(crate) fn once(server: &str, bytes: Vec<Vec<u8>>) -> Self {
        Request::of(server, bytes, Order::Once(Arc::default()), "200")
    }

    /// These ones, over and over.
    pub(crate) fn again(server: &str, bytes: Vec<Vec<u8>>) -> Self {
        Request::of(server, bytes, Order::Again(Arc::default()), "200")
    }

    /// These ones: each client has `own` of them.
    pub(crate) fn own(server: &str, bytes: Vec<Vec<u8>>, own: usize) -> Self {
        Request::of(server, bytes, Order::Own(own), "200")
    }

    fn pick(&self, client: usize, asked: usize) -> Option<&[u8]> {
        let all = self.bytes.len();
        let at = match &self.order {
            Order::Once(next) => next.fetch_add(1, Ordering::Relaxed),
            Order::Again(next) => next.fetch_add(1, Ordering::Relaxed) % all,
            Order::Own(own) => (client * own + asked % own) % all,
        };
        self.bytes.get(at).map(Vec::as_slice)
    }

    /// Asks from so many clients for so long: each again as soon as it is answered, or all together so
    /// often in a second, whatever the answers take.
    pub(crate) async fn measure(
        &self,
        clients: usize,
        length: Duration,
        pace: Option<f64>,
    ) -> Series {
        let mut connections = Vec::new();
        for _ in 0..clients {
            let stream = TcpStream::connect(&self.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            connections.push(stream);
        }
        let began = Instant::now();
        let asking = connections
            .into_iter()
            .enumerate()
            .map(|(client, mut stream)| {
                let request = self.clone();
                tokio::spawn(async move {
                    let (mut took, mut late) = (Vec::new(), Vec::new());
                    let (timer, mut buffer) = (Timer::new(), vec![0; 16 * 1024]);
                    // The clients take turns, each a beat behind the one before.
                    let beat = pace.map(|rate| Duration::from_secs_f64(1.0 / rate));
                    let turn = |asked: usize| {
                        let beats = u32::try_from(asked * clients + client).unwrap();
                        beat.map(|beat| began + beat * beats)
                    };
                    // What a client has begun of its own it ends: the next measurement begins anew.
                    while began.elapsed() < length || request.is_within(took.len()) {
                        let Some(bytes) = request.pick(client, took.len()) else {
                            break;
                        };
                        let turn = turn(took.len());
                        if let Some(turn) = turn.filter(|turn| *turn > Instant::now()) {
                            timer.until(turn).await;
                            late.push(turn.elapsed());
                        }
                        // Since its turn, whatever made it late: the answer before, or who had the processor.
                        let asked = turn.unwrap_or_else(Instant::now);
                        request.ask(bytes, &mut stream, &mut buffer).await;
                        took.push(asked.elapsed());
                    }
                    (took, late)
                })
            });
        let (mut took, mut late) = (Vec::new(), Vec::new());
        for asked in asking.collect::<Vec<_>>() {
            let one = asked.await.unwrap();
            took.extend(one.0);
            late.extend(one.1);
        }
        assert!(!took.is_empty(), "nothing is left to ask");
        Series::new(took, began.elapsed()).woken(late)
    }

    fn is_within(&self, asked: usize) -> bool {
        matches!(self.order, Order::Own(own) if !asked.is_multiple_of(own))
    }

    async fn ask(&self, bytes: &[u8], stream: &mut TcpStream, buffer: &mut [u8]) {
        stream.write_all(bytes).await.unwrap();
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..]).await.unwrap();
            assert!(read > 0, "the connection closed, or the answer is too long");
            filled += read;
            if let Some(length) = answer_length(&buffer[..filled]) {
                let status = buffer.get(9..12).unwrap_or_default();
                let text = || String::from_utf8_lossy(&buffer[..filled]);
                assert!(status == self.status.as_bytes(), "{}", text());
                if filled >= length {
                    // A plugin's refusal is a 200.
                    let refused = buffer[..filled]
                        .windows(13)
                        .any(|at| at == b"\"reject\":true");
                    assert!(!refused, "{}", text());
                    return;
                }
            }
        }
    }
}

/// Head and body together, once the head is there.
fn answer_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let ours = name.eq_ignore_ascii_case("content-length");
        ours.then(|| value.trim().parse::<usize>().unwrap())
    });
    Some(head + length.unwrap_or(0))
}
