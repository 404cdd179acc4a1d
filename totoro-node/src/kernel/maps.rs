//! The maps, typed, for what is read or written by key. The same structure serves the daemon and
//! `inspect`; what is read as a whole has handles of its own ([`super::tables::Tables`]).

use std::path::Path;
use std::time::Duration;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuHashMap};
use totoro_ebpf::abi;
use totoro_ebpf::logic::admit::live_flows;

use super::{Context, Result, TenantCounts, failed};

/// Maps that are pinned, so that counts and policy outlive the daemon. All but the ring.
pub(super) const PINNED: &[&str] = &[
    "CONFIG",
    "POOL",
    "LOCALS",
    "BANS",
    "PORTS",
    "PORT_USAGE",
    "TENANTS",
    "USAGE",
    "FLOWS_CLOSED",
    "TRAFFIC",
    "CONNS",
    "SOURCES",
    "FLOWS",
    "CANDIDATES",
    "OUTBOUND",
    "REASONS",
    "CONTROL",
    "SKETCH",
    "SOCKETS",
    "SURPLUS",
];

/// Typed access to the maps that userspace reads or writes.
pub(super) struct Maps {
    pub(super) config: Array<MapData, abi::Config>,
    pub(super) pool: Array<MapData, u64>,
    pub(super) locals: HashMap<MapData, abi::Addr, u32>,
    pub(super) bans: LpmTrie<MapData, abi::BanAddr, abi::Ban>,
    pub(super) ports: HashMap<MapData, abi::PortKey, abi::Lease>,
    pub(super) port_usage: HashMap<MapData, abi::PortKey, abi::PortUsage>,
    pub(super) tenants: HashMap<MapData, u32, abi::Tenant>,
    pub(super) usage: HashMap<MapData, u32, abi::Usage>,
    pub(super) flows_closed: HashMap<MapData, u32, abi::FlowsClosed>,
    pub(super) traffic: PerCpuHashMap<MapData, abi::TrafficKey, abi::Traffic>,
    pub(super) sources: HashMap<MapData, abi::SourceKey, abi::Source>,
    pub(super) candidates: HashMap<MapData, abi::FlowKey, abi::Flow>,
    pub(super) reasons: PerCpuHashMap<MapData, abi::ReasonKey, abi::ReasonCount>,
    pub(super) control: HashMap<MapData, abi::ControlKey, abi::Control>,
}

impl Maps {
    /// Takes the maps from wherever `find` has them. aya compares key and value sizes.
    pub(super) fn open(mut find: impl FnMut(&'static str) -> Result<Map>) -> Result<Maps> {
        macro_rules! take {
            ($name:literal) => {
                find($name)?.try_into().on("use map", $name)?
            };
        }
        Ok(Maps {
            config: take!("CONFIG"),
            pool: take!("POOL"),
            locals: take!("LOCALS"),
            bans: take!("BANS"),
            ports: take!("PORTS"),
            port_usage: take!("PORT_USAGE"),
            tenants: take!("TENANTS"),
            usage: take!("USAGE"),
            flows_closed: take!("FLOWS_CLOSED"),
            traffic: take!("TRAFFIC"),
            sources: take!("SOURCES"),
            candidates: take!("CANDIDATES"),
            reasons: take!("REASONS"),
            control: take!("CONTROL"),
        })
    }

    /// Takes the maps from their pins.
    pub(super) fn from_pins(dir: &Path) -> Result<Maps> {
        Maps::open(|name| {
            let data = MapData::from_pin(dir.join(name)).on("open the pinned map", name)?;
            Map::from_map_data(data).on("open the pinned map", name)
        })
    }

    /// One tenant's counts.
    pub(super) fn counts(&self, tenant: u32) -> Result<TenantCounts> {
        let usage = found(self.usage.get(&tenant, 0))
            .on("read", "USAGE")?
            .unwrap_or_default();
        let closed = found(self.flows_closed.get(&tenant, 0)).on("read", "FLOWS_CLOSED")?;
        let flows_closed = closed.unwrap_or(0);
        Ok(TenantCounts {
            usage,
            flows: live_flows(usage.flows_opened, flows_closed),
            flows_closed,
        })
    }

    /// Traffic of a tenant on a port, over all CPUs.
    pub(super) fn traffic(&self, tenant: u32, key: abi::PortKey) -> Result<abi::Traffic> {
        let key = abi::TrafficKey::of(tenant, key);
        let per_cpu = found(self.traffic.get(&key, 0)).on("read", "TRAFFIC")?;
        Ok(per_cpu.map_or_else(abi::Traffic::default, |values| {
            values
                .iter()
                .fold(abi::Traffic::default(), |sum, value| abi::Traffic {
                    bytes_in: sum.bytes_in + value.bytes_in,
                    bytes_out: sum.bytes_out + value.bytes_out,
                    packets_in: sum.packets_in + value.packets_in,
                    packets_out: sum.packets_out + value.packets_out,
                })
        }))
    }

    /// Bans with their ends.
    pub(super) fn bans(&self) -> Result<Vec<(ipnet::IpNet, u64)>> {
        let all = entries(self.bans.iter(), "BANS")?;
        Ok(all
            .into_iter()
            .filter_map(|(key, ban)| Some((prefix_of(&key)?, ban.until_ns)))
            .collect())
    }

    /// Prefix lengths and addresses of bans, as the programs see them, with their ends.
    pub(super) fn ban_keys(&self) -> Result<Vec<((u32, abi::Addr), u64)>> {
        let all = entries(self.bans.iter(), "BANS")?;
        let one = |(key, ban): (Key<abi::BanAddr>, abi::Ban)| {
            ((key.prefix_len(), key.data()), ban.until_ns)
        };
        Ok(all.into_iter().map(one).collect())
    }
}

/// All entries of a map. One that goes away while we read is left out; an error is an error.
///
/// For small maps and for what is no hash table: a call for each entry. No snapshot: what comes
/// meanwhile is there or is not. And what was read may be read again: the kernel begins anew at the
/// first entry when the one that was read last is gone (`get_next_key` of its hash tables).
pub(super) fn entries<K, V>(
    iter: impl Iterator<Item = std::result::Result<(K, V), MapError>>,
    name: &'static str,
) -> Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    for entry in iter {
        match entry {
            Ok(entry) => all.push(entry),
            Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
            Err(error) => return Err(failed("read", name, error)),
        }
    }
    Ok(all)
}

/// How often a step is tried again that fails for a moment only, and after what time.
const TRIES: (u32, Duration) = (200, Duration::from_millis(1));

/// A step that inserts, again until it is through: what it has done already it must find done.
/// Entries come from a small stock that the kernel fills up in the background; who is faster than
/// that is told ENOMEM, although there is memory, and a moment later there is an entry. A step takes
/// the maps' lock for itself: between two of them others have it.
pub(super) fn patiently(step: impl FnMut() -> Result<()>) -> Result<()> {
    retried(step, |error| error.os_code() == Some(libc::ENOMEM))
}

/// A step, again until it is through or fails for good.
pub(super) fn retried<T, E>(
    mut step: impl FnMut() -> std::result::Result<T, E>,
    passes: impl Fn(&E) -> bool,
) -> std::result::Result<T, E> {
    for _ in 0..TRIES.0 {
        match step() {
            Err(error) if passes(&error) => std::thread::sleep(TRIES.1),
            done => return done,
        }
    }
    step()
}

/// Absence is an answer.
pub(super) fn found<T>(
    answer: std::result::Result<T, MapError>,
) -> std::result::Result<Option<T>, MapError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removing what is not there is no failure.
pub(super) fn gone(
    answer: std::result::Result<(), MapError>,
) -> std::result::Result<bool, MapError> {
    match answer {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(false),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A prefix as `BANS` has it: IPv4 under `::ffff:0:0/96`.
pub(super) fn ban_key(prefix: ipnet::IpNet) -> Key<abi::BanAddr> {
    let bits = u32::from(prefix.prefix_len()) + if prefix.addr().is_ipv4() { 96 } else { 0 };
    Key::new(bits, super::to_addr(prefix.network()))
}

fn prefix_of(key: &Key<abi::BanAddr>) -> Option<ipnet::IpNet> {
    let data = key.data();
    let addr = super::from_addr(&data);
    let bits = if addr.is_ipv4() {
        key.prefix_len().checked_sub(96)?
    } else {
        key.prefix_len()
    };
    ipnet::IpNet::new(addr, u8::try_from(bits).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_tried_again_and_nothing_else_is() {
        let tries = |works_at: u32, error: &'static str| {
            let mut tried = 0;
            let insert = || {
                tried += 1;
                if tried == works_at {
                    Ok(())
                } else {
                    Err(error)
                }
            };
            let inserted = retried(insert, |error| *error == "no memory");
            (inserted.is_ok(), tried)
        };
        assert_eq!(tries(1, "no memory"), (true, 1));
        assert_eq!(tries(4, "no memory"), (true, 4));
        assert_eq!(tries(4, "full"), (false, 1));
        assert_eq!(tries(0, "no memory"), (false, TRIES.0 + 1), "in the end");
    }
}
