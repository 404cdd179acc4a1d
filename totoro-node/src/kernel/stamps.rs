//! Which connection to frps's own port has which stamp. The kernel keeps them by frpc's address, so
//! that a stamp is found by going through all of them: once for each new connection, and never so
//! often that a flood of made-up stamps keeps a processor busy.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use totoro_ebpf::logic::stamp;

use super::{Context, ControlSocket, Kernel, Result};

/// Between two looks there is this many times what the first one took.
const REST: u32 = 9;

/// What the last look at all connections saw.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    clients: HashMap<u64, SocketAddr>,
    /// When it began and ended.
    last: Option<(Instant, Instant)>,
}

impl Stamps {
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

impl Kernel {
    /// The connection to frps's own port whose websocket's request the filter gave this stamp.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn stamped_control(&self, stamp: u64) -> Result<Option<ControlSocket>> {
        let asked = Instant::now();
        let config = self.shared.maps().config.get(&0, 0);
        let seed = config.on("read", "CONFIG")?.sketch_seed;
        // Who waits for the lock waits for a look that may serve it, too.
        let mut stamps = self.stamps();
        if let Some(client) = stamps.clients.get(&stamp) {
            let socket = self.control_socket(*client)?;
            if let Some(socket) = socket.filter(|socket| stamp::of(socket.cookie, seed) == stamp) {
                return Ok(Some(socket));
            }
        }
        let Some(wait) = stamps.next(asked) else {
            return Ok(None);
        };
        sleep(wait);
        let began = Instant::now();
        let mut found = None;
        stamps.clients.clear();
        for control in self.controls()? {
            let its = stamp::of(control.socket.cookie, seed);
            stamps.clients.insert(its, control.socket.client);
            if its == stamp {
                found = Some(control.socket);
            }
        }
        stamps.last = Some((began, Instant::now()));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_shared_and_far_between() {
        let mut stamps = Stamps::default();
        let now = Instant::now();
        assert_eq!(stamps.next(now), Some(Duration::ZERO), "nobody has looked");
        let hour = Duration::from_secs(3_600);
        stamps.last = Some((now, now + hour));
        assert_eq!(stamps.next(now), None, "that look saw it all");
        let wait = stamps.next(now + hour).unwrap();
        assert!(wait > hour * (REST - 1), "{wait:?}");
        stamps.last = Some((now - hour, now - hour));
        assert_eq!(stamps.next(now), Some(Duration::ZERO), "long ago");
    }
}
