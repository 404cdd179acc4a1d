//! How full the tables are. Looked up when somebody asks: tables are walked through for it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use aya::maps::{MapData, MapInfo};
use serde::Serialize;
use totoro_ebpf::abi;

use super::batch::Table;
use super::tables::Tables;
use super::{Context, Result, sys};

/// What becomes of whoever finds no room in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Full {
    /// New leases are refused.
    Leases,
    /// So are new tenants, and so their logins and proxies.
    Tenants,
    /// So are new connections of users.
    Conns,
    /// So are new connections and UDP flows of users.
    Sources,
    /// So are new UDP flows.
    Flows,
    /// So are frpc's new connections.
    Controls,
    /// Further bans do not take effect.
    Bans,
    /// The filter does not know further addresses of the node's.
    Locals,
    /// Refusals of tenants that have no row yet are not counted.
    Counts,
    /// A connection over a limit is destroyed as ever, but may receive until then.
    Surplus,
    /// The oldest entry gives way: a full one is nothing unusual.
    Recycled,
    /// Nothing bounds it but what it belongs to: an entry on each counted socket.
    Unbounded,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Its name.
    pub table: &'static str,
    /// Entries now; `None` = they can't be counted.
    pub entries: Option<u64>,
    /// The most that go in; `None` = no bound of its own.
    pub max: Option<u64>,
    /// What the kernel says that it takes, bytes; before Linux 6.4 without what entries take.
    pub memory: Option<u64>,
    /// What happens when it is full.
    pub full: Full,
}

impl Fill {
    /// How much of it is taken, percent, rounded down.
    #[must_use]
    pub fn percent(&self) -> Option<u64> {
        let (entries, max) = (self.entries?, self.max.filter(|max| *max > 0)?);
        Some(entries.saturating_mul(100) / max)
    }
}

/// All tables that entries come to and go from, in the order of docs/bpf-maps.md; arrays have all of theirs
/// from the start.
pub(super) fn all(dir: &Path, tables: &Tables) -> Result<Vec<Fill>> {
    let outbound: Table<abi::OutboundKey, u64> = Table::open(&dir.join("OUTBOUND"))?;
    let locals: Table<abi::Addr, u32> = Table::open(&dir.join("LOCALS"))?;
    [
        ("LOCALS", Full::Locals, Some(locals.count()?)),
        ("BANS", Full::Bans, Some(walked(dir, "BANS")?)),
        ("PORTS", Full::Leases, Some(tables.ports.count()?)),
        ("PORT_USAGE", Full::Leases, Some(tables.port_usage.count()?)),
        ("TENANTS", Full::Tenants, Some(tables.tenants.count()?)),
        ("USAGE", Full::Tenants, Some(tables.usage.count()?)),
        (
            "FLOWS_CLOSED",
            Full::Tenants,
            Some(tables.flows_closed.count()?),
        ),
        ("TRAFFIC", Full::Leases, Some(tables.traffic.count()?)),
        ("CONNS", Full::Conns, Some(tables.conns.count()?)),
        ("SOURCES", Full::Sources, Some(tables.sources.count()?)),
        ("FLOWS", Full::Flows, Some(tables.flows.count()?)),
        (
            "CANDIDATES",
            Full::Recycled,
            Some(tables.candidates.count()?),
        ),
        ("OUTBOUND", Full::Recycled, Some(outbound.count()?)),
        ("REASONS", Full::Counts, Some(tables.reasons.count()?)),
        ("CONTROL", Full::Controls, Some(tables.control.count()?)),
        // No entry of another's socket can be had.
        ("SOCKETS", Full::Unbounded, None),
        ("SURPLUS", Full::Surplus, Some(walked(dir, "SURPLUS")?)),
    ]
    .into_iter()
    .map(|(table, full, entries)| {
        let map = MapData::from_pin(dir.join(table)).on("open the pinned map", table)?;
        let max = map.info().on("open the pinned map", table)?.max_entries();
        Ok(Fill {
            table,
            entries,
            max: (max > 0).then_some(u64::from(max)),
            memory: map_memory(map.fd().as_fd()),
            full,
        })
    })
    .collect()
}

/// The entries of a map that can't be read in batches, a call for each. Ends also when the kernel begins anew
/// because the entry that was last is gone.
fn walked(dir: &Path, name: &'static str) -> Result<u64> {
    let pin = dir.join(name);
    let info = MapInfo::from_pin(&pin).on("open the pinned map", name)?;
    let map = sys::get(&pin).on("open the pinned map", name)?;
    let most = u64::from(info.max_entries());
    let (mut key, mut next) = (None::<Vec<u8>>, vec![0; info.key_size() as usize]);
    let mut count = 0;
    while count < most && sys::next_key(&map, key.as_deref(), &mut next).on("read", name)? {
        count += 1;
        key.get_or_insert_with(|| next.clone())
            .copy_from_slice(&next);
    }
    Ok(count)
}

/// What the kernel says that a map takes, bytes: before Linux 6.4 without what entries take. `None` = it does not say.
#[must_use]
pub fn map_memory(map: BorrowedFd<'_>) -> Option<u64> {
    let about = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    memlock(&std::fs::read_to_string(about).ok()?)
}

fn memlock(about: &str) -> Option<u64> {
    let line = about
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_of_what_has_a_bound() {
        let fill = |entries, max| Fill {
            table: "PORTS",
            entries,
            max,
            memory: None,
            full: Full::Leases,
        };
        for (entries, max, percent) in [
            (Some(0), Some(65_536), Some(0)),
            (Some(52_428), Some(65_536), Some(79)),
            (Some(52_429), Some(65_536), Some(80)),
            (Some(65_536), Some(65_536), Some(100)),
            (Some(7), None, None),
            (None, Some(7), None),
            (Some(7), Some(0), None),
        ] {
            assert_eq!(fill(entries, max).percent(), percent, "{entries:?} {max:?}");
        }
    }

    #[test]
    fn memory_is_what_the_kernel_says() {
        let about = "pos:\t0\nmap_type:\t1\nmemlock:\t786432\nmap_id:\t7\n";
        assert_eq!(memlock(about), Some(786_432));
        assert_eq!(memlock("pos:\t0\n"), None);
    }
}
