//! Which connection to frps's own port has which stamp. The kernel keeps them by frpc's address, so
//! that a stamp is found by going through all of them: once for each new connection, and never so
//! often that a flood of made-up stamps keeps a processor busy.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use totoro_ebpf::logic::stamp;

use super::{Context, ControlSocket, Kernel, KernelError, Result, failed};

/// Between two looks there is this many times what the first one took.
const REST: u32 = 9;
/// How many may wait for the next look at once; each has a thread of the plugin's.
const MOST_WAIT: usize = 32;

/// Stamps, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Stamps(Mutex<Looked>);

/// What the last look at all connections saw.
#[derive(Debug, Default)]
struct Looked {
    clients: HashMap<u64, SocketAddr>,
    /// When it began and ended.
    last: Option<(Instant, Instant)>,
    /// How many wait for the next one.
    waiting: usize,
}

impl Looked {
    /// How long to wait for the next look, for who asked at `asked`; `None` = the last one began
    /// after that, and saw all there was.
    fn next(&self, asked: Instant) -> Option<Duration> {
        match self.last {
            Some((began, _)) if began >= asked => None,
            Some((began, ended)) => {
                let next = ended + (ended - began) * REST;
                Some(next.saturating_duration_since(Instant::now()))
            }
            None => Some(Duration::ZERO),
        }
    }
}

impl Stamps {
    /// Each holder leaves what the next look corrects, so a panic poisons nothing.
    fn lock(&self) -> MutexGuard<'_, Looked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who has a stamp: `is` tells whether a client has it still, `look` which there are.
    fn find(
        &self,
        stamp: u64,
        is: impl Fn(SocketAddr) -> Result<Option<ControlSocket>>,
        look: impl Fn() -> Result<HashMap<u64, SocketAddr>>,
    ) -> Result<Option<ControlSocket>> {
        let asked = Instant::now();
        loop {
            let mut looked = self.lock();
            // Known before anybody waits: made-up stamps delay no known one.
            if let Some(client) = looked.clients.get(&stamp)
                && let Some(socket) = is(*client)?
            {
                return Ok(Some(socket));
            }
            match looked.next(asked) {
                None => return Ok(None),
                // Who comes meanwhile waits for the lock, and for this look, which may serve it.
                Some(Duration::ZERO) => {
                    let began = Instant::now();
                    looked.clients = look()?;
                    looked.last = Some((began, Instant::now()));
                }
                Some(_) if looked.waiting >= MOST_WAIT => return Err(busy()),
                Some(wait) => {
                    looked.waiting += 1;
                    drop(looked);
                    sleep(wait);
                    self.lock().waiting -= 1;
                }
            }
        }
    }
}

impl Kernel {
    /// The connection to frps's own port whose websocket's request the filter gave this stamp.
    ///
    /// # Errors
    /// When a map can't be read; when too many wait for an answer already
    /// ([`KernelError::is_busy`]).
    pub fn stamped_control(&self, stamp: u64) -> Result<Option<ControlSocket>> {
        let config = self.shared.maps().config.get(&0, 0);
        let seed = config.on("read", "CONFIG")?.sketch_seed;
        let of = |socket: &ControlSocket| stamp::of(socket.cookie, seed);
        let is = |client| {
            let socket = self.control_socket(client)?;
            Ok(socket.filter(|socket| of(socket) == stamp))
        };
        let look = || {
            let all = self.controls()?.into_iter();
            let all = all.map(|control| control.socket);
            Ok(all.map(|socket| (of(&socket), socket.client)).collect())
        };
        self.stamps.find(stamp, is, look)
    }
}

/// What `io::ErrorKind` has for "not now".
fn busy() -> KernelError {
    let problem = io::Error::from(io::ErrorKind::ResourceBusy);
    failed("look for", "a websocket's stamp", problem)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn looks_are_shared_and_far_between() {
        let mut looked = Looked::default();
        let now = Instant::now();
        assert_eq!(looked.next(now), Some(Duration::ZERO), "nobody has looked");
        let hour = Duration::from_secs(3_600);
        looked.last = Some((now, now + hour));
        assert_eq!(looked.next(now), None, "that look saw it all");
        let wait = looked.next(now + hour).unwrap();
        assert!(wait > hour * (REST - 1), "{wait:?}");
        looked.last = Some((now - hour, now - hour));
        assert_eq!(looked.next(now), Some(Duration::ZERO), "long ago");
    }

    #[test]
    fn made_up_stamps_wait_a_few_at_a_time_and_delay_no_known_one() {
        const KNOWN: u64 = 1;
        let client = SocketAddr::from(([192, 0, 2, 1], 5));
        let find = move |stamps: &Stamps, stamp| {
            let is = |client| {
                Ok(Some(ControlSocket {
                    cookie: 7,
                    client,
                    local: client,
                }))
            };
            stamps.find(stamp, is, || panic!("it is not yet time for a look"))
        };
        // The last look began before anybody asks, and took so long that the next is hours away.
        let began = Instant::now();
        let stamps = Arc::new(Stamps(Mutex::new(Looked {
            clients: HashMap::from([(KNOWN, client)]),
            last: Some((began, began + Duration::from_secs(3_600))),
            waiting: 0,
        })));
        while Instant::now() == began {}
        for nth in 0..MOST_WAIT as u64 {
            let stamps = Arc::clone(&stamps);
            // They wait for as long as the tests run.
            std::thread::spawn(move || find(&stamps, 100 + nth));
        }
        while stamps.lock().waiting < MOST_WAIT {
            std::thread::yield_now();
        }
        let told = find(&stamps, KNOWN).unwrap().expect("known");
        assert_eq!(told.client, client);
        let error = find(&stamps, 99).unwrap_err();
        assert!(error.is_busy() && !error.is_full(), "{}", error.whole());
    }
}
