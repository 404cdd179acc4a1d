//! The machine's figures, from procfs. What can't be read is zero: a heartbeat goes out anyway.

use std::collections::HashMap;
use std::time::Instant;

use procfs::{Current, CurrentSI};
use totoro_api::wire::node::InterfaceMetrics;

/// One reading.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) uptime_s: u64,
    pub(super) cpu_percent: f32,
    pub(super) load1: f32,
    pub(super) mem_total: u64,
    pub(super) mem_available: u64,
    pub(super) interfaces: Vec<InterfaceMetrics>,
    pub(super) tcp_sockets: u64,
    pub(super) udp_sockets: u64,
}

/// When, and received and sent bytes by interface.
type Traffic = (Instant, HashMap<String, (u64, u64)>);

/// Remembers the last reading, for what is a rate.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    cpu: Option<(u64, u64)>,
    net: Option<Traffic>,
}

impl Sampler {
    pub(super) fn take(&mut self) -> Sample {
        let memory = procfs::Meminfo::current().ok();
        let (tcp_sockets, udp_sockets) = sockets();
        Sample {
            uptime_s: procfs::Uptime::current().map_or(0, |uptime| uptime.uptime as u64),
            cpu_percent: self.cpu(),
            load1: procfs::LoadAverage::current().map_or(0.0, |load| load.one),
            mem_total: memory.as_ref().map_or(0, |memory| memory.mem_total),
            mem_available: memory.and_then(|memory| memory.mem_available).unwrap_or(0),
            interfaces: self.interfaces(),
            tcp_sockets,
            udp_sockets,
        }
    }

    /// Share of all cores that was busy since the last reading, percent.
    fn cpu(&mut self) -> f32 {
        let Ok(stat) = procfs::KernelStats::current() else {
            return 0.0;
        };
        let cpu = stat.total;
        let idle = cpu.idle + cpu.iowait.unwrap_or(0);
        let busy = cpu.user
            + cpu.nice
            + cpu.system
            + cpu.irq.unwrap_or(0)
            + cpu.softirq.unwrap_or(0)
            + cpu.steal.unwrap_or(0);
        let before = self.cpu.replace((busy, idle));
        let Some((busy_before, idle_before)) = before else {
            return 0.0;
        };
        let busy = busy.saturating_sub(busy_before);
        let all = busy + idle.saturating_sub(idle_before);
        if all == 0 {
            0.0
        } else {
            (busy as f32 / all as f32) * 100.0
        }
    }

    fn interfaces(&mut self) -> Vec<InterfaceMetrics> {
        let Ok(all) = procfs::net::dev_status() else {
            return Vec::new();
        };
        let now = Instant::now();
        let counts = all
            .iter()
            .map(|(name, status)| (name.clone(), (status.recv_bytes, status.sent_bytes)))
            .collect();
        let before = self.net.replace((now, counts));
        let rate = |name: &str, rx: u64, tx: u64| {
            let (at, counts) = before.as_ref()?;
            let (rx_before, tx_before) = counts.get(name)?;
            let seconds = now.duration_since(*at).as_secs_f64().max(0.001);
            let per_second =
                |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
            Some((per_second(rx, *rx_before), per_second(tx, *tx_before)))
        };
        let mut interfaces: Vec<InterfaceMetrics> = all
            .into_values()
            .map(|status| {
                let (rx, tx) =
                    rate(&status.name, status.recv_bytes, status.sent_bytes).unwrap_or_default();
                InterfaceMetrics {
                    rx_bytes_s: rx,
                    tx_bytes_s: tx,
                    drops: status.recv_drop + status.sent_drop,
                    name: status.name,
                    filter: String::new(),
                }
            })
            .collect();
        interfaces.sort_by(|a, b| a.name.cmp(&b.name));
        interfaces
    }
}

/// TCP and UDP sockets in use, both families.
fn sockets() -> (u64, u64) {
    let mut counts = (0, 0);
    for path in ["/proc/net/sockstat", "/proc/net/sockstat6"] {
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let inuse = match fields[..] {
                [_, "inuse", count, ..] => count.parse::<u64>().unwrap_or(0),
                _ => continue,
            };
            match fields[0] {
                "TCP:" | "TCP6:" => counts.0 += inuse,
                "UDP:" | "UDP6:" => counts.1 += inuse,
                _ => {}
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_figures() {
        let mut sampler = Sampler::default();
        sampler.take();
        let sample = sampler.take();
        assert!(sample.mem_total > 0 && sample.mem_available > 0 && sample.uptime_s > 0);
        assert!((0.0..=100.0).contains(&sample.cpu_percent));
        assert!(
            sample
                .interfaces
                .iter()
                .any(|interface| interface.name == "lo")
        );
    }
}
