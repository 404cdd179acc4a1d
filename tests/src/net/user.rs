//! Users of tunnels, one connection at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{PAGE, page};
use crate::lab::Netns;

const PATIENCE: Duration = Duration::from_secs(5);

/// An address from text.
///
/// # Errors
/// It is none.
pub fn at(ip: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(
        ip.parse()
            .with_context(|| format!("{ip:?} is no address"))?,
        port,
    ))
}

/// Connects.
///
/// # Errors
/// Refused, dropped, or no route.
pub fn connect(ns: &Netns, to: SocketAddr) -> Result<TcpStream> {
    ns.run(|| connect_here(to))
}

/// The same, from where the calling thread is.
///
/// # Errors
/// Refused, dropped, or no route.
pub fn connect_here(to: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Fetches the page and compares it; how long it took.
///
/// # Errors
/// It does not arrive whole.
pub fn fetch(ns: &Netns, to: SocketAddr) -> Result<Duration> {
    let begun = Instant::now();
    let mut stream = connect(ns, to)?;
    stream.write_all(b"GET /\r\n")?;
    let mut got = Vec::with_capacity(PAGE);
    stream.read_to_end(&mut got).context("read the page")?;
    ensure!(got.len() == PAGE, "{} of {PAGE} bytes arrived", got.len());
    ensure!(
        blake3::hash(&got) == blake3::hash(&page()),
        "the page's checksum differs"
    );
    Ok(begun.elapsed())
}

/// Sends something through a held connection and wants it back; how long it took.
///
/// # Errors
/// It does not come back.
pub fn exchange(stream: &mut TcpStream, word: &[u8]) -> Result<Duration> {
    let begun = Instant::now();
    stream.write_all(word).context("write")?;
    let mut back = vec![0; word.len()];
    stream.read_exact(&mut back).context("read the echo")?;
    ensure!(back == word, "another echo came back");
    Ok(begun.elapsed())
}

/// How a connection attempt ended that ought not to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// RST, after this time.
    Refused(Duration),
    /// No answer at all.
    Dropped,
}

/// Tries to connect where nothing should be had.
///
/// # Errors
/// It was had, or failed in a third way.
pub fn denied(ns: &Netns, to: SocketAddr, patience: Duration) -> Result<Denied> {
    ns.run(|| {
        let begun = Instant::now();
        match TcpStream::connect_timeout(&to, patience) {
            Ok(_) => bail!("{to} accepted a connection"),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                Ok(Denied::Refused(begun.elapsed()))
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(Denied::Dropped),
            Err(error) => Err(error).with_context(|| format!("connect to {to}")),
        }
    })
}

/// Sends a datagram and wants it back, trying three times (UDP may lose one); how long it took.
///
/// # Errors
/// It never comes back.
pub fn echo(ns: &Netns, to: SocketAddr, word: &[u8]) -> Result<Duration> {
    let socket = datagrams(ns, to)?;
    socket.set_read_timeout(Some(Duration::from_millis(700)))?;
    let mut buffer = [0; 2048];
    for _ in 0..3 {
        let begun = Instant::now();
        socket.send(word).with_context(|| format!("send to {to}"))?;
        match socket.recv(&mut buffer) {
            Ok(read) if buffer[..read] == *word => return Ok(begun.elapsed()),
            Ok(_) => bail!("another echo came back"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("read the echo"),
        }
    }
    bail!("no datagram came back from {to}")
}

/// A connected UDP socket.
///
/// # Errors
/// It can't be made.
pub fn datagrams(ns: &Netns, to: SocketAddr) -> Result<UdpSocket> {
    ns.run(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).context("bind a UDP socket")?;
        socket
            .connect(to)
            .with_context(|| format!("connect to {to}"))?;
        Ok(socket)
    })
}

/// Reads a connection until it ends; the instant of the last byte, and of the end.
///
/// # Errors
/// It has not ended within `patience`.
pub fn read_to_death(stream: &mut TcpStream, patience: Duration) -> Result<(Instant, Instant)> {
    let deadline = Instant::now() + patience;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut buffer = [0; 4096];
    let mut last = Instant::now();
    while Instant::now() < deadline {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((last, Instant::now())),
            Ok(_) => last = Instant::now(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return Ok((last, Instant::now())),
        }
    }
    bail!("the connection lived on for {patience:?}")
}
