//! Clients that cost little, since they share the machine with what they measure: a request is bytes
//! made once, an answer is read up to its length and only its status is looked at.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::series::Series;

/// A request as it goes over the wire.
#[derive(Clone)]
pub(crate) struct Request {
    address: String,
    bytes: Vec<u8>,
    status: &'static str,
}

impl Request {
    /// A POST to a server like `http://127.0.0.1:80`, which must answer with this status.
    pub(crate) fn post(
        server: &str,
        path: &str,
        bearer: &str,
        (kind, body): (&str, &str),
        status: &'static str,
    ) -> Self {
        let address = server.trim_start_matches("http://").to_owned();
        let length = body.len();
        let bytes = format!(
            "POST /api/v1{path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {bearer}\r\n\
             content-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        Request {
            address,
            bytes: bytes.into_bytes(),
            status,
        }
    }

    /// Asks from so many clients for so long, each again as soon as it is answered.
    pub(crate) async fn measure(&self, clients: usize, length: Duration) -> Series {
        let mut connections = Vec::new();
        for _ in 0..clients {
            let stream = TcpStream::connect(&self.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            connections.push(stream);
        }
        let began = Instant::now();
        let asking = connections.into_iter().map(|mut stream| {
            let request = self.clone();
            tokio::spawn(async move {
                let (mut took, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
                while began.elapsed() < length {
                    let asked = Instant::now();
                    request.ask(&mut stream, &mut buffer).await;
                    took.push(asked.elapsed());
                }
                took
            })
        });
        let mut took = Vec::new();
        for asked in asking.collect::<Vec<_>>() {
            took.extend(asked.await.unwrap());
        }
        Series::new(took, began.elapsed())
    }

    async fn ask(&self, stream: &mut TcpStream, buffer: &mut [u8]) {
        stream.write_all(&self.bytes).await.unwrap();
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
