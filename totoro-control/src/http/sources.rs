//! What is remembered of addresses: by IPv4 address or IPv6 /64, since an address there costs
//! nothing. Memory is bounded.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use governor::nanos::Nanos;
use ipnet::IpNet;

/// How often a full table looks for what it need not remember: that look costs its whole length.
const SWEEP: Duration = Duration::from_secs(1);

/// Where an address is counted.
pub(super) fn source(address: IpAddr) -> IpNet {
    within(address, 32, 64)
}

/// Where it is counted once the table is full of narrower ones.
fn wide(address: IpAddr) -> IpNet {
    within(address, 24, 48)
}

fn within(address: IpAddr, v4: u8, v6: u8) -> IpNet {
    let address = address.to_canonical();
    let len = if address.is_ipv4() { v4 } else { v6 };
    IpNet::new(address, len).map_or(IpNet::from(address), |net| net.trunc())
}

/// What may be forgotten.
pub(super) trait Idle {
    /// Whether a fresh one would say the same.
    fn is_idle(&self, now: Nanos) -> bool;
}

/// Something about each source. When it is full, new sources share by /24 and /48 what is
/// remembered of them; when that is full too, one of the wide ones is forgotten for each new one. So
/// a flood from many addresses takes no allowance from those that came before it, and no memory.
pub(super) struct Table<T> {
    most: usize,
    near: HashMap<IpNet, T>,
    wide: HashMap<IpNet, T>,
    swept: Option<Nanos>,
}

impl<T: Idle> Table<T> {
    /// One for `most` sources, and as many wide ones.
    pub(super) fn new(most: usize) -> Self {
        Table {
            most,
            near: HashMap::new(),
            wide: HashMap::new(),
            swept: None,
        }
    }

    /// What is remembered of this address.
    pub(super) fn at(&mut self, address: IpAddr, now: Nanos, fresh: impl FnOnce() -> T) -> &mut T {
        let near = source(address);
        if self.near.len() >= self.most && !self.near.contains_key(&near) {
            self.sweep(now);
        }
        if self.near.len() < self.most || self.near.contains_key(&near) {
            return self.near.entry(near).or_insert_with(fresh);
        }
        let wide = wide(address);
        if self.wide.len() >= self.most && !self.wide.contains_key(&wide) {
            let any = self.wide.keys().next().copied();
            any.and_then(|any| self.wide.remove(&any));
        }
        self.wide.entry(wide).or_insert_with(fresh)
    }

    /// What is remembered of this address, if anything is.
    pub(super) fn get(&self, address: IpAddr) -> Option<&T> {
        let near = self.near.get(&source(address));
        near.or_else(|| self.wide.get(&wide(address)))
    }

    fn sweep(&mut self, now: Nanos) {
        if self
            .swept
            .is_none_or(|at| Duration::from(now.saturating_sub(at)) >= SWEEP)
        {
            self.swept = Some(now);
            self.forget(now);
        }
    }

    /// Forgets what is idle.
    pub(super) fn forget(&mut self, now: Nanos) {
        for map in [&mut self.near, &mut self.wide] {
            map.retain(|_, held| !held.is_idle(now));
            map.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Until(Duration);

    impl Idle for Until {
        fn is_idle(&self, now: Nanos) -> bool {
            self.0 <= Duration::from(now)
        }
    }

    #[test]
    fn sources() {
        let text = |address: &str| source(address.parse().unwrap()).to_string();
        assert_eq!(text("192.0.2.7"), "192.0.2.7/32");
        assert_eq!(text("::ffff:192.0.2.7"), "192.0.2.7/32");
        assert_eq!(text("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    }

    #[test]
    fn a_flood_takes_no_memory_and_nobodys_place() {
        let begun = Duration::ZERO;
        let later = Duration::from_secs(60);
        let mut table = Table::new(2);
        let mut at = |address: &str, now: Duration| {
            let address = address.parse().unwrap();
            let held = table.at(address, now.into(), || Until(later));
            held.0 += Duration::from_secs(1);
            (held.0 - later, table.near.len(), table.wide.len())
        };
        let one = Duration::from_secs(1);
        assert_eq!(at("192.0.2.1", begun), (one, 1, 0));
        assert_eq!(at("192.0.2.2", begun), (one, 2, 0));
        assert_eq!(at("192.0.2.3", begun), (one, 2, 1), "it is full");
        assert_eq!(at("192.0.2.4", begun), (2 * one, 2, 1), "one /24");
        assert_eq!(at("192.0.2.1", begun), (2 * one, 2, 1), "keeps its place");
        for flood in 0..50 {
            let (_, near, wide) = at(&format!("2001:db8:{flood}::1"), begun);
            assert!((near, wide) <= (2, 2));
        }
        assert_eq!(
            at("198.51.100.1", later + 9 * one),
            (one, 1, 0),
            "idle ones go"
        );
    }
}
