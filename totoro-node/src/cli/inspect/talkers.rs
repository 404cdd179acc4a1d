//! Who moves how much: traffic of the leased ports over a second.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use totoro_ebpf::abi;

use super::rows::{name, protocol};
use super::{Row, Source};

/// What rates are measured over.
const OVER: Duration = Duration::from_secs(1);

#[derive(Serialize)]
pub(super) struct Talker {
    proto: &'static str,
    port: u16,
    number: u32,
    tenant: String,
    conns: u64,
    /// Bytes/s from users.
    in_rate: u64,
    /// Bytes/s to users.
    out_rate: u64,
    /// Packets/s, both ways.
    packet_rate: u64,
}

impl Row for Talker {
    const HEAD: &'static [&'static str] = &[
        "TENANT", "PROTO", "PORT", "CONNS", "IN B/S", "OUT B/S", "PKT/S",
    ];

    fn cells(self) -> Vec<String> {
        vec![
            self.tenant,
            self.proto.to_owned(),
            self.port.to_string(),
            self.conns.to_string(),
            self.in_rate.to_string(),
            self.out_rate.to_string(),
            self.packet_rate.to_string(),
        ]
    }

    fn tenant(&self) -> &str {
        &self.tenant
    }
}

/// What moved between two looks, per second.
fn rate(before: u64, now: u64, over: Duration) -> u64 {
    // A lease that was lent anew counts from nothing.
    let moved = now.saturating_sub(before) as f64;
    (moved / over.as_secs_f64()).round() as u64
}

impl Source<'_> {
    /// The leased ports, who moves the most first.
    pub(super) fn talkers(&self) -> Result<Vec<Talker>> {
        let began = Instant::now();
        let mut before = HashMap::new();
        for (key, lease, _) in self.inspector.ports()? {
            let traffic = self.inspector.traffic(lease.tenant, key)?;
            before.insert((key, lease.lease), traffic);
        }
        sleep(OVER);
        let mut talkers = Vec::new();
        for (key, lease, usage) in self.inspector.ports()? {
            let over = began.elapsed();
            let now = self.inspector.traffic(lease.tenant, key)?;
            let then = before
                .get(&(key, lease.lease))
                .copied()
                .unwrap_or_else(abi::Traffic::default);
            let packets = |traffic: &abi::Traffic| traffic.packets_in + traffic.packets_out;
            talkers.push(Talker {
                proto: protocol(key.proto),
                port: key.port,
                number: lease.tenant,
                tenant: name(self.names, lease.tenant),
                conns: usage.conns,
                in_rate: rate(then.bytes_in, now.bytes_in, over),
                out_rate: rate(then.bytes_out, now.bytes_out, over),
                packet_rate: rate(packets(&then), packets(&now), over),
            });
        }
        talkers.sort_by_key(|one| std::cmp::Reverse(one.in_rate + one.out_rate));
        Ok(talkers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(100, 1100, second), 1000);
        assert_eq!(rate(100, 1100, 2 * second), 500);
        assert_eq!(rate(1100, 100, second), 0, "counted anew");
    }
}
