//! The service behind frpc: one thread, so that what is measured is the way to it, with a queue long enough
//! for thousands who come at once.
//!
//! A connection's first byte says what it wants: `E` an echo until the user closes, `C` one echo after
//! which the service closes, `P` as much as is taken. Eight bytes of an echo are a word, which is written down.
//! UDP: an echo.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use totoro_tests::lab::Netns;

use super::aside::Aside;

/// What it says first when it is to greet: one byte, by which a user knows that it was admitted.
pub(crate) const GREETING: u8 = b'!';
/// A word of a user.
pub(crate) const WORD: usize = 8;

/// How something came.
#[derive(Clone, Copy)]
pub(crate) enum By {
    Tcp,
    Udp,
}

/// A running service; it ends when this is dropped.
pub(crate) struct Service {
    /// Its TCP port on 127.0.0.1.
    pub(crate) tcp: u16,
    /// Its UDP port on 127.0.0.1.
    pub(crate) udp: u16,
    shared: Arc<Shared>,
    _aside: Aside,
}

#[derive(Default)]
struct Shared {
    greets: AtomicBool,
    words: Mutex<HashSet<[u8; WORD]>>,
    /// When something arrived last, by TCP and by UDP.
    heard: [Mutex<Option<Instant>>; 2],
}

impl Shared {
    fn words(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; WORD]>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self, by: By) -> std::sync::MutexGuard<'_, Option<Instant>> {
        let heard = &self.heard[by as usize];
        heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Starts it in a namespace; `greets`: whether it speaks first.
    ///
    /// # Errors
    /// No socket or thread can be had.
    pub(crate) fn start(ns: &Netns, greets: bool) -> Result<Service> {
        let (listener, socket) = ns.run(|| {
            use socket2::{Domain, Socket, Type};
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
            // The kernel takes as much of it as net.core.somaxconn allows.
            listener.listen(65_535)?;
            listener.set_nonblocking(true)?;
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            Ok((std::net::TcpListener::from(listener), socket))
        })?;
        let (tcp, udp) = (listener.local_addr()?.port(), socket.local_addr()?.port());
        let shared = Arc::new(Shared::default());
        shared.greets.store(greets, Ordering::SeqCst);
        let its = Arc::clone(&shared);
        let aside = Aside::start("service", move || serve(listener, socket, its))?;
        Ok(Service {
            tcp,
            udp,
            shared,
            _aside: aside,
        })
    }

    /// When something last arrived of a user's: a datagram, or after a connection's first byte.
    pub(crate) fn heard(&self, by: By) -> Option<Instant> {
        *self.shared.heard(by)
    }

    /// The words that arrived since this was asked last.
    pub(crate) fn words(&self) -> HashSet<[u8; WORD]> {
        std::mem::take(&mut *self.shared.words())
    }
}

async fn serve(listener: std::net::TcpListener, socket: std::net::UdpSocket, shared: Arc<Shared>) {
    let (Ok(listener), Ok(socket)) = (TcpListener::from_std(listener), UdpSocket::from_std(socket))
    else {
        return;
    };
    let its = Arc::clone(&shared);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            if let Ok((read, from)) = socket.recv_from(&mut buffer).await {
                *its.heard(By::Udp) = Some(Instant::now());
                socket.send_to(&buffer[..read], from).await.ok();
            }
        }
    });
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, Arc::clone(&shared)));
    }
    // Whoever is connected stays so.
    std::future::pending().await
}

async fn answer(mut stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    if shared.greets.load(Ordering::Relaxed) {
        stream.write_all(&[GREETING]).await?;
    }
    let mut buffer = vec![0; 4096];
    match stream.read_u8().await? {
        b'P' => {
            let block = vec![b'p'; 256 << 10];
            loop {
                stream.write_all(&block).await?;
            }
        }
        wants => loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            *shared.heard(By::Tcp) = Some(Instant::now());
            if let Ok(word) = buffer[..read].try_into() {
                shared.words().insert(word);
            }
            stream.write_all(&buffer[..read]).await?;
            if wants == b'C' {
                return Ok(());
            }
        },
    }
}
