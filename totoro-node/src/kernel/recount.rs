//! Counts and what they count: `CONNS`, `FLOWS` and `CONTROL` are right. The programs keep both equal;
//! whoever writes to a pinned map does not.

use std::collections::HashMap;
use std::time::Duration;

use totoro_ebpf::abi;
use totoro_ebpf::logic::admit::{FORGOTTEN, live_flows};
use totoro_ebpf::logic::prefix;

use super::maps::{Maps, entries, found};
use super::{Context, Kernel, Result};

/// A count differs when it does so by the same number as often as this: what is counted and not yet
/// entered, or the other way round, is on its way for less than the pause in between.
const LOOKS: usize = 3;
const PAUSE: Duration = Duration::from_millis(2);

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Count {
    /// `Usage::conns` of a tenant, a parent, or the node.
    Conns(u32),
    /// Live flows of a tenant or a parent.
    Flows(u32),
    /// `Source::conns`.
    Source(abi::SourceKey),
}

type Counts = HashMap<Count, u64>;

impl Kernel {
    /// Has the kernel add what counts lack, or take away what they have too many; how many differed.
    pub(super) fn recount(&self) -> Result<usize> {
        let mut drift = drift(&self.shared.maps())?;
        for _ in 1..LOOKS {
            if drift.is_empty() {
                return Ok(0);
            }
            std::thread::sleep(PAUSE);
            let again = self::drift(&self.shared.maps())?;
            drift.retain(|count, by| again.get(count) == Some(by));
        }
        let mut mended = 0;
        for (count, by) in drift {
            mended += usize::from(self.mend(&order(count, by))?);
        }
        if mended > 0 {
            tracing::warn!(mended, "counts and what they count differed: mended");
        }
        Ok(mended)
    }
}

fn order(count: Count, by: i64) -> abi::Mend {
    let order = abi::Mend {
        by,
        ..abi::Mend::default()
    };
    match count {
        Count::Conns(tenant) => abi::Mend {
            kind: abi::MEND_CONNS_BY,
            tenant,
            ..order
        },
        Count::Flows(tenant) => abi::Mend {
            kind: abi::MEND_FLOWS_BY,
            tenant,
            ..order
        },
        Count::Source(source) => abi::Mend {
            kind: abi::MEND_SOURCE_BY,
            source,
            ..order
        },
    }
}

/// How far each count is below the truth (negative: above). One that changes meanwhile is left out.
fn drift(maps: &Maps) -> Result<HashMap<Count, i64>> {
    let counts = counts(maps)?;
    let live = live(maps)?;
    let mut drift = HashMap::new();
    for (count, is) in counts {
        let by = live.get(&count).copied().unwrap_or(0).wrapping_sub(is) as i64;
        if by != 0 && read(maps, count)? == Some(is) {
            drift.insert(count, by);
        }
    }
    Ok(drift)
}

/// What is counted now.
fn counts(maps: &Maps) -> Result<Counts> {
    let mut counts = Counts::new();
    let closed = entries(maps.flows_closed.iter(), "FLOWS_CLOSED")?;
    let closed: HashMap<u32, u64> = closed.into_iter().collect();
    for (tenant, usage) in entries(maps.usage.iter(), "USAGE")? {
        counts.insert(Count::Conns(tenant), usage.conns);
        if let Some(closed) = closed.get(&tenant) {
            let flows = live_flows(usage.flows_opened, *closed);
            counts.insert(Count::Flows(tenant), flows);
        }
    }
    for (source, state) in entries(maps.sources.iter(), "SOURCES")? {
        // What is being removed has no count.
        if state.conns < FORGOTTEN {
            counts.insert(Count::Source(source), state.conns);
        }
    }
    Ok(counts)
}

/// One of them, now.
fn read(maps: &Maps, count: Count) -> Result<Option<u64>> {
    Ok(match count {
        Count::Conns(tenant) => found(maps.usage.get(&tenant, 0))
            .on("read", "USAGE")?
            .map(|usage| usage.conns),
        Count::Flows(tenant) => Some(maps.counts(tenant)?.flows),
        Count::Source(source) => found(maps.sources.get(&source, 0))
            .on("read", "SOURCES")?
            .map(|state| state.conns),
    })
}

/// What the counts should be.
fn live(maps: &Maps) -> Result<Counts> {
    let mut live = Counts::new();
    let mut add = |count| *live.entry(count).or_default() += 1;
    let source = |remote: &abi::Addr, tenant, kind| {
        let prefix = prefix::source(remote);
        Count::Source(abi::SourceKey {
            prefix,
            tenant,
            kind,
        })
    };
    for one in maps.connections()? {
        let conn = one.conn;
        // One too many was charged nothing.
        if conn.flags & abi::SURPLUS != 0 {
            continue;
        }
        add(Count::Conns(abi::NODE));
        add(Count::Conns(conn.tenant));
        if conn.parent != 0 {
            add(Count::Conns(conn.parent));
        }
        add(source(&conn.remote, conn.tenant, abi::SOURCE_CONNS));
    }
    for (key, _) in entries(maps.control.iter(), "CONTROL")? {
        add(source(&key.remote, 0, abi::SOURCE_CONNS));
    }
    for (key, flow) in entries(maps.flows.iter(), "FLOWS")? {
        add(Count::Flows(flow.tenant));
        if flow.parent != 0 {
            add(Count::Flows(flow.parent));
        }
        add(source(&key.remote, flow.tenant, abi::SOURCE_FLOWS));
    }
    Ok(live)
}
