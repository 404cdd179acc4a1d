//! The services behind frpc: one TCP port, one UDP port, on the client's loopback.
//!
//! TCP: `GET` answers with the page and closes, `TICK` sends a byte every millisecond, `POUR` sends as
//! much as is taken, anything else is echoed. On request it greets first, as mail and ssh servers do.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::page;
use crate::lab::Netns;

/// What it says first, when it is to greet.
pub const GREETING: &[u8] = b"220 ready\r\n";

/// The running services; they end when this is dropped.
#[derive(Debug)]
pub struct Backend {
    /// The TCP service's port on 127.0.0.1.
    pub tcp: u16,
    /// The UDP service's port on 127.0.0.1.
    pub udp: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    greets: AtomicBool,
    /// Connections from whose users something arrived.
    heard: AtomicUsize,
    /// Connections so far.
    accepted: AtomicUsize,
}

impl Backend {
    /// Starts both services in a namespace.
    ///
    /// # Errors
    /// No socket can be had.
    pub fn start(ns: &Netns) -> Result<Backend> {
        let (listener, socket) = ns.run(|| {
            let listener =
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the TCP service")?;
            let socket =
                UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("bind the UDP service")?;
            Ok((listener, socket))
        })?;
        let address = |address: std::io::Result<SocketAddr>| address.map(|at| at.port());
        let (tcp, udp) = (
            address(listener.local_addr())?,
            address(socket.local_addr())?,
        );
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        listener.set_nonblocking(true)?;
        thread::spawn(move || accept(&listener, &its));
        let its = Arc::clone(&shared);
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        thread::spawn(move || echo_datagrams(&socket, &its));
        Ok(Backend { tcp, udp, shared })
    }

    /// Serves on given ports, in the namespace of whoever calls, until the process ends.
    ///
    /// # Errors
    /// The ports can't be had within 5 s.
    pub fn serve_for_ever(tcp: u16, udp: u16) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(5);
        // Whoever served there before may still be letting go.
        let (listener, socket) = loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, tcp));
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, udp));
            match (listener, socket) {
                (Ok(listener), Ok(socket)) => break (listener, socket),
                (Err(error), _) | (_, Err(error)) if Instant::now() > deadline => {
                    return Err(error).context("bind the services");
                }
                _ => thread::sleep(Duration::from_millis(50)),
            }
        };
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        thread::spawn(move || echo_datagrams(&socket, &its));
        listener.set_nonblocking(true)?;
        accept(&listener, &shared);
        Ok(())
    }

    /// Whether it greets from here on.
    pub fn greet(&self, yes: bool) {
        self.shared.greets.store(yes, Ordering::SeqCst);
    }

    /// (connections so far, those of them from whose users a byte arrived).
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (
            self.shared.accepted.load(Ordering::SeqCst),
            self.shared.heard.load(Ordering::SeqCst),
        )
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.ended.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                let its = Arc::clone(shared);
                thread::spawn(move || serve(stream, &its).ok());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1))
            }
            Err(_) => return,
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    // An idle connection does not outlive the story.
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    if shared.greets.load(Ordering::SeqCst) {
        stream.write_all(GREETING)?;
    }
    let mut buffer = [0; 4096];
    let mut first = true;
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        if std::mem::take(&mut first) {
            shared.heard.fetch_add(1, Ordering::SeqCst);
            if buffer[..read].starts_with(b"GET") {
                return stream.write_all(&page());
            }
            if buffer[..read].starts_with(b"POUR") {
                let page = page();
                loop {
                    stream.write_all(&page)?;
                }
            }
            if buffer[..read].starts_with(b"TICK") {
                return tick(&mut stream, shared);
            }
        }
        stream.write_all(&buffer[..read])?;
    }
}

fn tick(stream: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    while !shared.ended.load(Ordering::SeqCst) {
        stream.write_all(b".")?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn echo_datagrams(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 2048];
    while !shared.ended.load(Ordering::SeqCst) {
        if let Ok((read, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..read], from).ok();
        }
    }
}
