//! Users who come and go all the time.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::lab::{Lab, NODE_USER_V4, Place};
use crate::net::user;

/// TCP users of each port.
const USERS: usize = 4;
/// How long a user waits for anything.
const PATIENCE: Duration = Duration::from_millis(500);

/// One frpc's public ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Door {
    pub(super) tcp: u16,
    pub(super) udp: u16,
}

/// What users met.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// Connections on which a word came back.
    pub(super) served: AtomicU64,
    /// Connections that were refused at once.
    pub(super) refused: AtomicU64,
    /// Connections that failed in any other way.
    pub(super) failed: AtomicU64,
    /// Datagrams that came back.
    pub(super) datagrams: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    runs: AtomicBool,
    ended: AtomicBool,
    /// Users under way.
    busy: AtomicUsize,
    served: Served,
}

/// Users, each on a thread of its own.
#[derive(Debug)]
pub(super) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Gets users ready, who wait.
    pub(super) fn start(lab: &Lab, doors: &[Door]) -> Result<Load> {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for door in doors {
            let (tcp, udp) = (
                user::at(NODE_USER_V4, door.tcp)?,
                user::at(NODE_USER_V4, door.udp)?,
            );
            for number in 0..=USERS {
                let (ns, its) = (lab.ns(Place::User).clone(), Arc::clone(&shared));
                threads.push(std::thread::spawn(move || {
                    // What a user can't do is counted, not told.
                    let _ = ns.run(|| {
                        if number == USERS {
                            its.each(|shared| ping(udp, &shared.served));
                        } else {
                            its.each(|shared| visit(tcp, &shared.served));
                        }
                        Ok(())
                    });
                }));
            }
        }
        Ok(Load { shared, threads })
    }

    /// Has them come, or stay away; returns when those who must go have gone.
    pub(super) fn run(&self, yes: bool) {
        self.shared.runs.store(yes, Ordering::SeqCst);
        let deadline = Instant::now() + 4 * PATIENCE;
        while !yes && self.shared.busy.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends them; what they met.
    pub(super) fn stop(mut self) -> Served {
        self.end();
        let mut served = Served::default();
        let its = &self.shared.served;
        for (to, from) in [
            (&mut served.served, &its.served),
            (&mut served.refused, &its.refused),
            (&mut served.failed, &its.failed),
            (&mut served.datagrams, &its.datagrams),
        ] {
            *to.get_mut() = from.load(Ordering::SeqCst);
        }
        served
    }

    fn end(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn each(&self, mut visit: impl FnMut(&Shared) -> std::io::Result<()>) {
        while !self.ended.load(Ordering::SeqCst) {
            if self.runs.load(Ordering::SeqCst) {
                self.busy.fetch_add(1, Ordering::SeqCst);
                let _ = visit(self);
                self.busy.fetch_sub(1, Ordering::SeqCst);
            }
            std::thread::sleep(Duration::from_millis(fastrand::u64(5..60)));
        }
    }
}

fn visit(to: SocketAddr, served: &Served) -> std::io::Result<()> {
    let mut stream = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(stream) => stream,
        Err(error) => {
            let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
            let count = if refused {
                &served.refused
            } else {
                &served.failed
            };
            count.fetch_add(1, Ordering::Relaxed);
            return Err(error);
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"word")?;
    let mut back = [0; 4];
    let answered = stream.read_exact(&mut back);
    let count = match answered {
        Ok(()) => &served.served,
        Err(_) => &served.failed,
    };
    count.fetch_add(1, Ordering::Relaxed);
    answered?;
    std::thread::sleep(Duration::from_millis(fastrand::u64(0..150)));
    Ok(())
}

/// A user who asks a few times from one port: each port is a flow until it has been idle for a minute.
fn ping(to: SocketAddr, served: &Served) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    for _ in 0..10 {
        socket.send(b"ping")?;
        socket.recv(&mut [0; 16])?;
        served.datagrams.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
