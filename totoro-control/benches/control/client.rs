//! Clients that cost little, since they share the machine with what they measure: requests are bytes
//! made once, an answer is read up to its length and only its status is looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::series::{Series, cpu_of};
use crate::tls;

/// What is asked of a server, as it goes over the wire.
#[derive(Clone)]
pub(crate) struct Request {
    server: String,
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
    /// A POST to a server like `http://127.0.0.1:80`, which must answer with this status.
    pub(crate) fn post(
        server: &str,
        path: &str,
        authorization: &str,
        (kind, body): (&str, &str),
        status: &'static str,
    ) -> Self {
        let bytes = vec![bytes_of(server, path, authorization, kind, body)];
        let order = Order::Again(Arc::default());
        Request::of(server, bytes, order, status)
    }

    fn of(server: &str, bytes: Vec<Vec<u8>>, order: Order, status: &'static str) -> Self {
        Request {
            server: server.to_owned(),
            bytes: Arc::new(bytes),
            order,
            status,
        }
    }

    /// The same, each once.
    pub(crate) fn once(self) -> Self {
        let order = Order::Once(Arc::default());
        Request { order, ..self }
    }

    /// These ones, over and over.
    pub(crate) fn again(server: &str, bytes: Vec<Vec<u8>>) -> Self {
        Request::of(server, bytes, Order::Again(Arc::default()), "200")
    }

    /// The same, answered with this status.
    pub(crate) fn answered(self, status: &'static str) -> Self {
        Request { status, ..self }
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

    /// Asks from so many clients for so long, each again as soon as it is answered.
    /// `server` is the process that answers.
    pub(crate) async fn measure(&self, clients: usize, length: Duration, server: i32) -> Series {
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(tls::connect(&self.server).await);
        }
        let (began, before) = (Instant::now(), cpu_of(server));
        let asking = connections
            .into_iter()
            .enumerate()
            .map(|(client, mut stream)| {
                let request = self.clone();
                tokio::spawn(async move {
                    let (mut took, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
                    // What a client has begun of its own it ends: the next measurement begins anew.
                    while began.elapsed() < length || request.is_within(took.len()) {
                        let Some(bytes) = request.pick(client, took.len()) else {
                            break;
                        };
                        let asked = Instant::now();
                        request.ask(bytes, &mut *stream, &mut buffer).await;
                        took.push(asked.elapsed());
                    }
                    took
                })
            });
        let mut took = Vec::new();
        for asked in asking.collect::<Vec<_>>() {
            took.extend(asked.await.unwrap());
        }
        assert!(!took.is_empty(), "nothing is left to ask");
        Series::new(took, began.elapsed(), cpu_of(server) - before)
    }

    fn is_within(&self, asked: usize) -> bool {
        matches!(self.order, Order::Own(own) if !asked.is_multiple_of(own))
    }

    async fn ask(&self, bytes: &[u8], stream: &mut dyn tls::Stream, buffer: &mut [u8]) {
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
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

/// A POST as it goes over the wire.
pub(crate) fn bytes_of(
    server: &str,
    path: &str,
    authorization: &str,
    kind: &str,
    body: &str,
) -> Vec<u8> {
    let (_, address) = tls::parts(server);
    let length = body.len();
    format!(
        "POST /api/v1{path} HTTP/1.1\r\nhost: {address}\r\nauthorization: {authorization}\r\n\
         content-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
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
