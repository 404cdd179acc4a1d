//! What time brings: idle flows, surplus and orphaned connections, ended bans, and what an event or
//! the stack should have told.

use std::collections::HashMap;

use totoro_ebpf::abi;
use totoro_ebpf::logic::admit::flow_idle;
use totoro_ebpf::logic::prefix;

use super::maps::{Maps, entries, found, gone};
use super::{Connection, Context, Kernel, KernelError, Result, Swept, bans, boot_ns, locals};

/// An idle zero entry of `SOURCES` is kept so long, ns: who comes back is not entered anew.
const SOURCE_KEPT_NS: u64 = 60_000_000_000;
/// So many of them are forgotten at a time: each is a run of a program, and who waits for the sweep
/// waits for all.
const SOURCES_AT_ONCE: usize = 16_384;
/// Links and interfaces are looked at this often, ns; what is rarely to be forgotten, too.
const LINKS_EVERY_NS: u64 = 5_000_000_000;
/// The kernel's sockets are compared with the maps this often, ns.
const SOCKETS_EVERY_NS: u64 = 10_000_000_000;

/// When the rarer parts of a sweep are due, boot-time ns.
#[derive(Debug, Default)]
pub(super) struct Due {
    links: u64,
    sockets: u64,
}

/// How connections that were to end ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    /// Destroyed.
    pub(super) destroyed: usize,
    /// Gone already, unheard: their charges were taken back.
    pub(super) mended: usize,
}

impl Kernel {
    /// Closes idle flows, destroys surplus connections that an event should have announced and
    /// connections that outlived their lease; every few seconds looks at the links, forgets idle
    /// sources and ended bans, and compares the kernel's sockets with the maps. Call it every
    /// second.
    ///
    /// # Errors
    /// The first part that failed; the others were done all the same.
    pub fn sweep(&self) -> Result<Swept> {
        let now = boot_ns();
        let mut first = First(None);
        let mut swept = Swept {
            idle_flows: first.of(self.close_idle(now)),
            ..Swept::default()
        };
        swept.addresses = first.of(locals::refresh(&mut self.shared.maps()));
        // A second old: the event, if there was one, has been acted on, and so has a lease's end.
        // What was established in the very moment in which its lease ended is found here.
        let settled = |conn: &abi::Conn| conn.opened_ns + 1_000_000_000 < now;
        let surplus =
            first.of(self.destroy_where(|conn| conn.flags & abi::SURPLUS != 0 && settled(conn)));
        let orphans = first.of(self.leases().and_then(|leases| {
            let leases: HashMap<u16, u64> = leases
                .into_iter()
                .filter(|(key, _)| key.proto == abi::TCP)
                .map(|(key, lease)| (key.port, lease.lease))
                .collect();
            self.destroy_where(|conn| {
                settled(conn) && leases.get(&conn.local_port) != Some(&conn.lease)
            })
        }));
        (swept.surplus, swept.orphans) = (surplus.destroyed, orphans.destroyed);
        swept.mended = surplus.mended + orphans.mended;
        let (links, sockets) = {
            let mut due = self.due();
            let is_due = |at: &mut u64, every| {
                let is = *at <= now;
                if is {
                    *at = now + every;
                }
                is
            };
            (
                is_due(&mut due.links, LINKS_EVERY_NS),
                is_due(&mut due.sockets, SOCKETS_EVERY_NS),
            )
        };
        if links {
            (swept.links, swept.interfaces) = first.of(self.check_links());
            first.of(self.forget_sources(now));
            first.of(bans::forget_ended(&mut self.shared.maps(), now));
        }
        if sockets {
            let compared = first.of(self.compare_sockets());
            swept.mended += compared.mended;
            swept.untracked = compared.untracked;
        }
        first.0.map_or(Ok(swept), Err)
    }

    fn close_idle(&self, now: u64) -> Result<usize> {
        let idle = {
            let maps = self.shared.maps();
            maps.config.get(&0, 0).on("read", "CONFIG")?.flow_idle_ns
        };
        self.end_flows(|_, flow| flow.last_ns + flow_idle(flow.state, idle) < now)
    }

    /// Ends the flows that `wanted` picks, and takes back what they were charged; how many.
    pub(super) fn end_flows(
        &self,
        wanted: impl Fn(&abi::FlowKey, &abi::Flow) -> bool,
    ) -> Result<usize> {
        let mut first = First(None);
        let mut closed = Vec::new();
        first.of(close_flows(&mut self.shared.maps(), wanted, &mut closed));
        // The program that does it is run without the maps' lock.
        for source in &closed {
            first.of(self.mend_flow(*source));
        }
        first.0.map_or(Ok(closed.len()), Err)
    }

    fn mend_flow(&self, source: abi::SourceKey) -> Result<bool> {
        self.mend(&abi::Mend {
            kind: abi::MEND_FLOW,
            source,
            ..abi::Mend::default()
        })
    }

    /// Takes back what no flow stands for: a daemon that was killed between removing a flow and
    /// this has left one too many on its source.
    pub(super) fn recount_sources(&self) -> Result<()> {
        // The sources first: a flow that is opened meanwhile is in the second list alone.
        let sources = entries(self.shared.maps().sources.iter(), "SOURCES")?;
        let mut live = HashMap::<abi::SourceKey, u64>::new();
        for (key, flow) in entries(self.shared.maps().flows.iter(), "FLOWS")? {
            *live.entry(source_of(&key, &flow)).or_default() += 1;
        }
        for (key, source) in sources {
            let live = live.get(&key).copied().unwrap_or(0);
            if key.kind == abi::SOURCE_FLOWS {
                for _ in live..source.conns {
                    self.mend_flow(key)?;
                }
            }
        }
        Ok(())
    }

    fn forget_sources(&self, now: u64) -> Result<()> {
        let sources = entries(self.shared.maps().sources.iter(), "SOURCES")?;
        let idle = sources
            .into_iter()
            .filter(|(_, state)| state.conns == 0 && state.last_ns + SOURCE_KEPT_NS < now);
        for (source, _) in idle.take(SOURCES_AT_ONCE) {
            self.mend(&abi::Mend {
                kind: abi::MEND_SOURCE,
                source,
                ..abi::Mend::default()
            })?;
        }
        Ok(())
    }

    /// Destroys every connection that `wanted` picks.
    pub(super) fn destroy_where(&self, wanted: impl Fn(&abi::Conn) -> bool) -> Result<Ended> {
        let all = self.shared.maps().connections()?;
        let mut ended = Ended::default();
        let mut first = First(None);
        for Connection { cookie, conn } in all.iter().filter(|connection| wanted(&connection.conn))
        {
            match self.shared.destroy(*cookie, conn) {
                Ok(true) => ended.destroyed += 1,
                // Ended, and perhaps its close was not heard of: the charges must not stay.
                Ok(false) => ended.mended += usize::from(first.of(self.mend_conn(*cookie))),
                Err(error) => first.add(error),
            }
        }
        if ended.mended > 0 {
            tracing::warn!(
                count = ended.mended,
                "connections had ended unheard; their counts were taken back"
            );
        }
        first.0.map_or(Ok(ended), Err)
    }
}

/// The first error of several steps that are all to be done.
pub(super) struct First(pub(super) Option<KernelError>);

impl First {
    pub(super) fn add(&mut self, error: KernelError) {
        self.0.get_or_insert(error);
    }

    /// The value of a step, or nothing of it.
    pub(super) fn of<T: Default>(&mut self, step: Result<T>) -> T {
        step.unwrap_or_else(|error| {
            self.add(error);
            T::default()
        })
    }
}

/// Closes the flows that `wanted` picks, and counts them as closed for whom they were charged to;
/// their sources are added to `closed`.
fn close_flows(
    maps: &mut Maps,
    wanted: impl Fn(&abi::FlowKey, &abi::Flow) -> bool,
    closed: &mut Vec<abi::SourceKey>,
) -> Result<()> {
    for (key, flow) in entries(maps.flows.iter(), "FLOWS")? {
        if !wanted(&key, &flow) || !gone(maps.flows.remove(&key)).on("write", "FLOWS")? {
            continue;
        }
        closed.push(source_of(&key, &flow));
        for tenant in payers(&flow) {
            if let Some(count) =
                found(maps.flows_closed.get(&tenant, 0)).on("read", "FLOWS_CLOSED")?
            {
                maps.flows_closed
                    .insert(tenant, count + 1, 0)
                    .on("write", "FLOWS_CLOSED")?;
            }
        }
    }
    for (key, flow) in entries(maps.candidates.iter(), "CANDIDATES")? {
        if wanted(&key, &flow) {
            gone(maps.candidates.remove(&key)).on("write", "CANDIDATES")?;
        }
    }
    Ok(())
}

/// The source that a flow is charged to.
const fn source_of(key: &abi::FlowKey, flow: &abi::Flow) -> abi::SourceKey {
    abi::SourceKey {
        prefix: prefix::source(&key.remote),
        tenant: flow.tenant,
        kind: abi::SOURCE_FLOWS,
    }
}

/// Counts the flows that are there anew: a daemon that was killed between removing a flow and
/// counting it has left one too many.
pub(super) fn recount_flows(maps: &mut Maps) -> Result<()> {
    let opened: Vec<(u32, u64)> = entries(maps.usage.iter(), "USAGE")?
        .into_iter()
        .map(|(tenant, usage)| (tenant, usage.flows_opened))
        .collect();
    let mut live = HashMap::<u32, u64>::new();
    for (_, flow) in entries(maps.flows.iter(), "FLOWS")? {
        for tenant in payers(&flow) {
            *live.entry(tenant).or_default() += 1;
        }
    }
    for (tenant, opened) in opened {
        let now = found(maps.usage.get(&tenant, 0)).on("read", "USAGE")?;
        // A flow was opened while we counted: what is there stays, and is right if it was.
        if now.is_none_or(|usage| usage.flows_opened != opened) {
            continue;
        }
        let closed = opened.saturating_sub(live.get(&tenant).copied().unwrap_or(0));
        maps.flows_closed
            .insert(tenant, closed, 0)
            .on("write", "FLOWS_CLOSED")?;
    }
    Ok(())
}

/// Who was charged for a flow: the tenant, and its parent.
fn payers(flow: &abi::Flow) -> impl Iterator<Item = u32> + use<> {
    [flow.tenant, flow.parent]
        .into_iter()
        .filter(|tenant| *tenant != 0)
}
