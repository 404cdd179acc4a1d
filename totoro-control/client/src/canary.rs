//! A canary: a service of our own behind a tunnel, and a user of our own before it. It tells whether
//! the public address works, how far it is, and what gets through.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::Error;
use crate::lang::{Lang, say};

/// What a connection begins with; the address is public, and others may come.
const TOKEN: usize = 16;
/// Round trips that are measured.
const ROUNDS: usize = 20;
/// How long each direction is measured.
const SPAN: Duration = Duration::from_secs(2);
/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// One write, bytes.
const CHUNK: usize = 64 << 10;
/// What begins a chunk upwards: another follows, or none. (frp knows no half-closed connection.)
const MORE: u8 = 1;
/// See [`MORE`].
const LAST: u8 = 0;
/// Strangers and measurements at once.
const AT_ONCE: usize = 8;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// How long the connection took, milliseconds.
    pub connect_ms: f64,
    /// The round trip through the tunnel, milliseconds: the median.
    pub round_trip_ms: f64,
    /// The slowest of them.
    pub slowest_ms: f64,
    /// From a user to the service, bytes per second.
    pub up: u64,
    /// From the service to a user, bytes per second.
    pub down: u64,
}

/// The service; it ends when it is dropped.
#[derive(Debug)]
pub struct Echo {
    /// Its port on 127.0.0.1.
    pub port: u16,
    token: [u8; TOKEN],
    task: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Echo {
    /// Starts it.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start() -> Result<Self, Error> {
        let fail = |error: std::io::Error| Error::file("127.0.0.1", error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(fail)?;
        let port = listener.local_addr().map_err(fail)?.port();
        let mut token = [0; TOKEN];
        getrandom::fill(&mut token).map_err(|error| Error::file("random", error))?;
        Ok(Echo {
            port,
            token,
            task: tokio::spawn(serve(listener, token)),
        })
    }

    /// Measures it through this address.
    ///
    /// # Errors
    /// Something that does not work, in this language.
    pub async fn measure(&self, address: &str, lang: Lang) -> Result<Figures, Error> {
        let begun = Instant::now();
        let mut stream = self.connect(address, b'E', lang).await?;
        let connect_ms = ms(begun.elapsed());
        let mut trips = Vec::with_capacity(ROUNDS);
        for round in 0..ROUNDS {
            let begun = Instant::now();
            let (sent, mut back) = ([u8::try_from(round).unwrap_or(0); 32], [0; 32]);
            step(address, lang, async {
                stream.write_all(&sent).await?;
                stream.read_exact(&mut back).await
            })
            .await?;
            if back != sent {
                return Err(Error::Canary(say!(
                    lang,
                    "{address} answers, but not with what was sent",
                    "{address} 有应答，但内容与发送的不同"
                )));
            }
            trips.push(ms(begun.elapsed()));
        }
        trips.sort_by(f64::total_cmp);
        Ok(Figures {
            connect_ms,
            round_trip_ms: trips[ROUNDS / 2],
            slowest_ms: trips[ROUNDS - 1],
            down: self.down(address, lang).await?,
            up: self.up(address, lang).await?,
        })
    }

    async fn down(&self, address: &str, lang: Lang) -> Result<u64, Error> {
        let mut stream = self.connect(address, b'D', lang).await?;
        let (begun, mut buffer, mut count) = (Instant::now(), vec![0; CHUNK], 0);
        while begun.elapsed() < SPAN {
            let read = step(address, lang, stream.read(&mut buffer)).await?;
            if read == 0 {
                return Err(cut(address, lang));
            }
            count += read;
        }
        Ok(per_second(count, begun.elapsed()))
    }

    async fn up(&self, address: &str, lang: Lang) -> Result<u64, Error> {
        let mut stream = self.connect(address, b'U', lang).await?;
        let (begun, mut chunk) = (Instant::now(), vec![MORE; CHUNK]);
        while begun.elapsed() < SPAN {
            step(address, lang, stream.write_all(&chunk)).await?;
        }
        // What lies in buffers on the way does not count: the service says what arrived.
        chunk[0] = LAST;
        let arrived = step(address, lang, async {
            stream.write_all(&chunk).await?;
            stream.read_u64().await
        })
        .await?;
        let arrived = usize::try_from(arrived).unwrap_or(usize::MAX);
        Ok(per_second(arrived, begun.elapsed()))
    }

    async fn connect(&self, address: &str, what: u8, lang: Lang) -> Result<TcpStream, Error> {
        step(address, lang, async {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            stream
                .write_all(&[&self.token[..], &[what]].concat())
                .await?;
            Ok(stream)
        })
        .await
    }
}

/// One step within its time.
async fn step<T>(
    address: &str,
    lang: Lang,
    work: impl Future<Output = std::io::Result<T>>,
) -> Result<T, Error> {
    match timeout(PATIENCE, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Error::Canary(say!(
            lang,
            "{address} does not work from here: {error}",
            "从这里无法使用 {address}：{error}"
        ))),
        Err(_) => Err(Error::Canary(say!(
            lang,
            "{address} does not answer within {PATIENCE:?}",
            "{address} 在 {PATIENCE:?} 内无应答"
        ))),
    }
}

fn cut(address: &str, lang: Lang) -> Error {
    Error::Canary(say!(
        lang,
        "the connection to {address} was cut",
        "与 {address} 的连接被切断"
    ))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn per_second(bytes: usize, time: Duration) -> u64 {
    (bytes as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)) as u64
}

async fn serve(listener: TcpListener, token: [u8; TOKEN]) {
    let mut served = tokio::task::JoinSet::new();
    loop {
        while served.len() >= AT_ONCE {
            served.join_next().await;
        }
        if let Ok((stream, _)) = listener.accept().await {
            served.spawn(async move { answer(stream, token).await.ok() });
        }
    }
}

/// Answers one connection: an echo, a source or a sink. Without the token, nothing.
async fn answer(mut stream: TcpStream, token: [u8; TOKEN]) -> std::io::Result<()> {
    let mut head = [0; TOKEN + 1];
    timeout(PATIENCE, stream.read_exact(&mut head)).await??;
    if head[..TOKEN] != token {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; CHUNK];
    let mut count = 0;
    loop {
        match head[TOKEN] {
            b'D' => timeout(PATIENCE, stream.write_all(&buffer)).await??,
            b'U' => {
                timeout(PATIENCE, stream.read_exact(&mut buffer)).await??;
                count += CHUNK as u64;
                if buffer[0] == LAST {
                    return stream.write_u64(count).await;
                }
            }
            _ => match timeout(PATIENCE, stream.read(&mut buffer)).await?? {
                0 => return Ok(()),
                read => stream.write_all(&buffer[..read]).await?,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn measures_itself() {
        let echo = Echo::start().await.unwrap();
        let address = format!("127.0.0.1:{}", echo.port);
        let figures = echo.measure(&address, Lang::En).await.unwrap();
        assert!(figures.up > 0 && figures.down > 0 && figures.round_trip_ms > 0.0);
    }

    #[tokio::test]
    async fn strangers_get_nothing() {
        let echo = Echo::start().await.unwrap();
        let mut stranger = TcpStream::connect(("127.0.0.1", echo.port)).await.unwrap();
        stranger.write_all(&[b'D'; TOKEN + 1]).await.unwrap();
        let mut got = Vec::new();
        stranger.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"");
    }

    #[tokio::test]
    async fn what_does_not_work_is_told() {
        let echo = Echo::start().await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap().to_string();
        drop(closed);
        let error = echo.measure(&address, Lang::Zh).await.unwrap_err();
        assert!(matches!(error, Error::Canary(_)), "{error}");
    }
}
