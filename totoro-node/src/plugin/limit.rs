//! Logins per source, before any signature is looked at; and connections that fail again and
//! again. Fixed-size tables: a flood of sources can't make them grow.

use std::collections::HashMap;
use std::net::SocketAddr;

use totoro_ebpf::logic::bucket;

use crate::session::model::source;

/// Logins per second from one IPv4 address or IPv6 /64.
const RATE: u32 = 5;
/// And at once.
const BURST: u32 = 60;
/// Failed Logins on one connection until it is destroyed.
const MAX_FAILURES: u32 = 20;
/// The most sources, and the most connections, that are remembered.
const MAX_ENTRIES: usize = 16_384;

/// Who may try to log in.
#[derive(Debug, Default)]
pub struct Doors {
    /// GCRA state by source.
    sources: HashMap<String, u64>,
    /// Failures by frpc's end of its connection.
    failures: HashMap<SocketAddr, u32>,
}

impl Doors {
    /// Whether one more Login from there may be looked at, at `now_ns` of any monotone clock.
    pub fn admit(&mut self, client: SocketAddr, now_ns: u64) -> bool {
        let (interval, tolerance) = bucket::rate(RATE, BURST);
        if self.sources.len() >= MAX_ENTRIES {
            // Full buckets say nothing.
            self.sources.retain(|_, tat| *tat > now_ns);
        }
        let key = source(client.ip());
        if self.sources.len() >= MAX_ENTRIES && !self.sources.contains_key(&key) {
            return false;
        }
        let tat = self.sources.entry(key).or_insert(0);
        match bucket::take(*tat, now_ns, interval, tolerance) {
            Some(next) => {
                *tat = next;
                true
            }
            None => false,
        }
    }

    /// Counts a failure on a connection; whether it is to be destroyed.
    pub fn failed(&mut self, client: SocketAddr) -> bool {
        if self.failures.len() >= MAX_ENTRIES {
            // Connections that are gone can't be told from live ones here: all begin anew.
            self.failures.clear();
        }
        let failures = self.failures.entry(client).or_insert(0);
        *failures += 1;
        let over = *failures >= MAX_FAILURES;
        if over {
            self.failures.remove(&client);
        }
        over
    }

    /// A Login on a connection was good.
    pub fn succeeded(&mut self, client: SocketAddr) {
        self.failures.remove(&client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_then_the_rate_per_source() {
        let mut doors = Doors::default();
        let at = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
        let now = 10 * SECOND;
        for n in 0..BURST as u16 {
            assert!(doors.admit(at(n), now), "{n}: ports do not matter");
        }
        assert!(!doors.admit(at(1), now));
        assert!(
            doors.admit("192.0.2.2:1".parse().unwrap(), now),
            "others are not held back"
        );
        assert!(doors.admit(at(1), now + SECOND / u64::from(RATE)));
        let v6 = |text: &str| text.parse::<SocketAddr>().unwrap();
        for n in 0..BURST {
            assert!(doors.admit(v6(&format!("[2001:db8::{n:x}]:1")), now));
        }
        assert!(
            !doors.admit(v6("[2001:db8::ffff]:1"), now),
            "one /64 is one source"
        );
    }

    #[test]
    fn tables_stay_small_under_a_flood_of_sources() {
        let mut doors = Doors::default();
        for n in 0..2 * MAX_ENTRIES as u32 {
            let client = SocketAddr::from((std::net::Ipv4Addr::from(n), 1));
            doors.admit(client, SECOND);
            doors.failed(client);
        }
        assert!(doors.sources.len() <= MAX_ENTRIES && doors.failures.len() <= MAX_ENTRIES);
        assert!(
            doors.admit("198.51.100.1:1".parse().unwrap(), 100 * SECOND),
            "and recover"
        );
    }

    #[test]
    fn a_connection_that_only_fails_is_destroyed() {
        let mut doors = Doors::default();
        let client: SocketAddr = "192.0.2.1:5".parse().unwrap();
        for _ in 1..MAX_FAILURES {
            assert!(!doors.failed(client));
        }
        assert!(doors.failed(client));
        for _ in 1..MAX_FAILURES {
            doors.failed(client);
        }
        doors.succeeded(client);
        assert!(!doors.failed(client), "a good one forgives");
    }
}
