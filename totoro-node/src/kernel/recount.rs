//! Counts and what they count: `CONNS`, `FLOWS` and `CONTROL` are right. The programs keep both equal;
//! whoever writes to a pinned map does not.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use totoro_ebpf::abi;
use totoro_ebpf::logic::admit::FORGOTTEN;
use totoro_ebpf::logic::prefix;

use super::load::Shared;
use super::maps::found;
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

/// A count, and what is written whenever it changes. The same twice: nothing came and went in
/// between, not even in equal numbers, as under a tenant that is full and whose users take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    count: u64,
    moves: [u64; 2],
}

impl Kernel {
    /// Compares counts with what they count, and has the kernel add what they lack, or take away what
    /// they have too many; how many differed. One that moves meanwhile is left for the next time.
    ///
    /// # Errors
    /// When a map can't be read, or the kernel can't be told.
    pub fn recount(&self) -> Result<usize> {
        let mut drift = drift(&self.shared)?;
        for _ in 1..LOOKS {
            if drift.is_empty() {
                return Ok(0);
            }
            std::thread::sleep(PAUSE);
            let again = self::drift(&self.shared)?;
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

/// How far each count is below the truth (negative: above). What moves meanwhile is left out: reading
/// a map is no snapshot of it.
fn drift(shared: &Shared) -> Result<HashMap<Count, i64>> {
    let before = marks(shared)?;
    let sources = sources(shared)?;
    let live = live(shared)?;
    let by = |count: &Count, is: u64| {
        let by = live.get(count).copied().unwrap_or(0).wrapping_sub(is) as i64;
        (by != 0).then_some((*count, by))
    };
    let mut drift: HashMap<Count, i64> = before
        .iter()
        .flat_map(|(of, marks)| marks.each(*of))
        .filter_map(|(count, mark)| by(&count, mark.count))
        .collect();
    if !drift.is_empty() {
        let after = marks(shared)?;
        let moved = |of: &u32, part: fn(&Marks) -> Option<Mark>| {
            before.get(of).and_then(part) != after.get(of).and_then(part)
        };
        let any_moved = before.keys().any(|of| moved(of, Marks::conns));
        let parents = parents(shared)?;
        drift.retain(|count, _| match count {
            // Who comes and goes under a parent, or on the node, leaves no mark there but the count's.
            Count::Conns(of) => !(moved(of, Marks::conns) || any_moved && parents.contains(of)),
            Count::Flows(of) => !moved(of, Marks::flows),
            Count::Source(_) => true,
        });
    }
    for (key, mark) in sources {
        let Some((count, by)) = by(&Count::Source(key), mark.count) else {
            continue;
        };
        let now = found(shared.maps().sources.get(&key, 0)).on("read", "SOURCES")?;
        if now.map(|now| source_mark(&now)) == Some(mark) {
            drift.insert(count, by);
        }
    }
    Ok(drift)
}

/// What is counted of a tenant, a parent, or the node.
#[derive(Clone, Copy, Debug)]
struct Marks {
    conns: Mark,
    /// Flows that began, and those that ended where that is counted.
    opened: u64,
    closed: Option<u64>,
}

impl Marks {
    fn conns(&self) -> Option<Mark> {
        Some(self.conns)
    }

    fn flows(&self) -> Option<Mark> {
        self.closed.map(|closed| Mark {
            // Below zero where more ended than began: unlike what is shown, it is to be put right.
            count: self.opened.wrapping_sub(closed),
            moves: [self.opened, closed],
        })
    }

    fn each(&self, of: u32) -> impl Iterator<Item = (Count, Mark)> {
        let flows = self.flows().map(|mark| (Count::Flows(of), mark));
        std::iter::once((Count::Conns(of), self.conns)).chain(flows)
    }
}

/// What is counted of tenants, parents and the node now. Of ten thousand tenants it is one table and no lists beside it.
fn marks(shared: &Shared) -> Result<HashMap<u32, Marks>> {
    let mut marks = HashMap::new();
    shared.tables.usage.each(|tenant, usage| {
        let usage = usage[0];
        // The node's time is that of the last look for what is idle.
        let last_ns = if tenant == abi::NODE {
            0
        } else {
            usage.last_ns
        };
        let conns = Mark {
            count: usage.conns,
            moves: [usage.admitted, last_ns],
        };
        let its = Marks {
            conns,
            opened: usage.flows_opened,
            closed: None,
        };
        marks.insert(tenant, its);
    })?;
    shared.tables.flows_closed.each(|tenant, closed| {
        if let Some(marks) = marks.get_mut(&tenant) {
            marks.closed = Some(closed[0]);
        }
    })?;
    Ok(marks)
}

/// What is counted of sources now.
fn sources(shared: &Shared) -> Result<HashMap<abi::SourceKey, Mark>> {
    let all = shared.tables.sources.all()?;
    Ok(all
        .into_iter()
        // What is being removed has no count.
        .filter(|(_, source)| source.conns < FORGOTTEN)
        .map(|(key, source)| (key, source_mark(&source)))
        .collect())
}

fn source_mark(source: &abi::Source) -> Mark {
    Mark {
        count: source.conns,
        moves: [source.last_ns, 0],
    }
}

/// Those whose connections are other tenants' too: parents, and the node.
fn parents(shared: &Shared) -> Result<HashSet<u32>> {
    let tenants = shared.tables.tenants.all()?;
    let conns = shared.tables.connections()?;
    let of_tenants = tenants.into_iter().map(|(_, tenant)| tenant.parent);
    // Of a tenant that has another parent by now, too.
    let of_conns = conns.into_iter().map(|one| one.conn.parent);
    Ok(of_tenants.chain(of_conns).chain([abi::NODE]).collect())
}

/// What the counts should be.
fn live(shared: &Shared) -> Result<Counts> {
    let mut live = Counts::new();
    let mut add = |count| *live.entry(count).or_default() += 1;
    let source =
        |remote: &abi::Addr, tenant, kind| Count::Source(prefix::key(remote, tenant, kind));
    let conns = shared.tables.connections()?;
    let control = shared.tables.control.all()?;
    let flows = shared.tables.flows.all()?;
    for one in conns {
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
    for (key, _) in control {
        add(source(&key.remote, 0, abi::SOURCE_CONNS));
        add(source(&key.remote, 0, abi::SOURCE_SITES));
    }
    for (key, flow) in flows {
        add(Count::Flows(flow.tenant));
        if flow.parent != 0 {
            add(Count::Flows(flow.parent));
        }
        add(source(&key.remote, flow.tenant, abi::SOURCE_FLOWS));
    }
    Ok(live)
}
