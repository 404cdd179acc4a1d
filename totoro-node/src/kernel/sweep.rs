//! What time brings: idle flows, surplus and orphaned connections, ended bans, and what an event or
//! the stack should have told.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use nix::time::ClockId;
use totoro_ebpf::abi;

use super::maps::{found, gone};
use super::{Connection, Context, Kernel, KernelError, Result, Swept, boot_ns, clock_ns};

/// What is idle is looked for this often, ns, where there are neither users nor flows: only sources
/// are to be forgotten then, and whoever comes first has the kernel look if that is overdue.
const IDLE_EVERY_NS: u64 = 10_000_000_000;
/// Sources are looked through this often, ns, while there are users; they may go after five seconds.
const SOURCES_EVERY_NS: u64 = 4_000_000_000;
/// Links and interfaces are looked at this often, ns.
const LINKS_EVERY_NS: u64 = 5_000_000_000;
/// The kernel's sockets are compared with the maps this often, ns.
const SOCKETS_EVERY_NS: u64 = 10_000_000_000;
/// And later by so many times the processor time that it took the last time: all sockets of the machine are
/// walked through for it, those that wait for stray segments too.
const SOCKETS_TIMES: u64 = 1_000;
/// Counts are compared with what they count this often, ns (nothing but tampering makes them differ),
/// and bans that are over, which bind nobody, are forgotten.
const COUNTS_EVERY_NS: u64 = 60_000_000_000;

/// When the rarer parts of a sweep are due, boot-time ns.
#[derive(Debug, Default)]
pub(super) struct Due {
    idle: u64,
    sources: u64,
    links: u64,
    sockets: u64,
    counts: u64,
    /// Counts that were mended before the first sweep.
    pub(super) drifted: usize,
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
    /// Ends idle flows and forgets idle sources, destroys surplus connections that an event should have
    /// announced and connections that outlived their lease; every few seconds looks at the links, and
    /// compares the kernel's sockets with the maps; every minute forgets ended bans, and compares counts
    /// with what they count. Call it every second: what it costs then grows with the connections there
    /// are, and not with the leases.
    ///
    /// # Errors
    /// The first part that failed; the others were done all the same.
    pub fn sweep(&self) -> Result<Swept> {
        let now = boot_ns();
        let mut first = First(None);
        let tables = &self.shared.tables;
        // What can't be told may be there.
        let some = |empty: Result<bool>| !empty.unwrap_or(false);
        let flows = some(tables.flows.is_empty()) || some(tables.candidates.is_empty());
        let users = some(tables.conns.is_empty());
        let idle_flows = match self.idle_is_due(flows || users, now) {
            true => {
                let sources = is_due(&mut self.due().sources, SOURCES_EVERY_NS, now);
                self.end_idle(flows, sources)
            }
            false => Ok(0),
        };
        let mut swept = Swept {
            idle_flows: first.of(idle_flows),
            ..Swept::default()
        };
        swept.addresses = first.of(self.shared.refresh_locals());
        // A second old: the event, if there was one, has been acted on, and so has a lease's end.
        // What was established in the very moment in which its lease ended is found here.
        let settled = |conn: &abi::Conn| conn.opened_ns + 1_000_000_000 < now;
        let conns = users.then(|| self.connections());
        let mut conns = conns.map_or_else(Vec::new, |conns| first.of(conns));
        conns.retain(|one| settled(&one.conn));
        let (surplus, conns) = conns
            .into_iter()
            .partition::<Vec<_>, _>(|one| one.conn.flags & abi::SURPLUS != 0);
        let surplus = first.of(self.destroy_all(&surplus));
        let orphans = self.orphans(conns).and_then(|all| self.destroy_all(&all));
        let orphans = first.of(orphans);
        (swept.surplus, swept.orphans) = (surplus.destroyed, orphans.destroyed);
        swept.mended = surplus.mended + orphans.mended;
        let (links, sockets, counts) = {
            let mut due = self.due();
            (
                is_due(&mut due.links, LINKS_EVERY_NS, now),
                is_due(&mut due.sockets, SOCKETS_EVERY_NS, now),
                is_due(&mut due.counts, COUNTS_EVERY_NS, now),
            )
        };
        if links {
            (swept.links, swept.interfaces) = first.of(self.check_links());
            swept.untagged = self.take_untagged();
        }
        if sockets {
            // Of this thread alone.
            let processor = || clock_ns(ClockId::CLOCK_THREAD_CPUTIME_ID);
            let begun = processor();
            let compared = first.of(self.compare_sockets());
            self.due().sockets += processor().saturating_sub(begun) * SOCKETS_TIMES;
            swept.mended += compared.mended;
            swept.untracked = compared.untracked;
        }
        if counts {
            first.of(self.shared.forget_ended_bans(now));
            swept.drifted = first.of(self.recount());
            swept.drifted += std::mem::take(&mut self.due().drifted);
        }
        first.0.map_or(Ok(swept), Err)
    }

    /// Whether it is time to look for what is idle, while there is anybody or not. To find nothing costs a
    /// walk through large tables.
    fn idle_is_due(&self, anybody: bool, now: u64) -> bool {
        let mut due = self.due();
        if !anybody && now < due.idle {
            return false;
        }
        due.idle = now + IDLE_EVERY_NS;
        true
    }

    /// Ends idle flows and forgets idle sources, as the kernel does by itself when nobody has it do so. It takes
    /// all for looked after then, so this is called also where neither is wanted.
    fn end_idle(&self, flows: bool, sources: bool) -> Result<usize> {
        let spare = |wanted: bool, bit: u32| if wanted { 0 } else { bit };
        let ended = self.run(&abi::Mend {
            kind: abi::MEND_IDLE,
            spared: spare(flows, abi::SPARE_FLOWS) | spare(sources, abi::SPARE_SOURCES),
            ..abi::Mend::default()
        })?;
        Ok(ended as usize)
    }

    /// Ends the flows that `wanted` picks; how many.
    pub(super) fn end_flows(
        &self,
        wanted: impl Fn(&abi::FlowKey, &abi::Flow) -> bool,
    ) -> Result<usize> {
        let mut first = First(None);
        // Candidates first: one that is answered meanwhile is a flow, and among those that are read afterwards.
        let candidates = self.shared.tables.candidates.all()?;
        let gone = |key| gone(self.shared.maps().candidates.remove(key)).on("write", "CANDIDATES");
        for (key, _) in candidates.iter().filter(|(key, flow)| wanted(key, flow)) {
            first.of(gone(key));
        }
        let flows = self.shared.tables.flows.all()?;
        let mut ended = 0;
        for (flow, _) in flows.iter().filter(|(key, flow)| wanted(key, flow)) {
            ended += usize::from(first.of(self.mend(&abi::Mend {
                kind: abi::MEND_FLOW,
                flow: *flow,
                ..abi::Mend::default()
            })));
        }
        first.0.map_or(Ok(ended), Err)
    }

    /// Destroys every connection that `wanted` picks.
    pub(super) fn destroy_where(&self, wanted: impl Fn(&abi::Conn) -> bool) -> Result<Ended> {
        let mut all = self.connections()?;
        all.retain(|connection| wanted(&connection.conn));
        self.destroy_all(&all)
    }

    /// Those whose lease is no more.
    fn orphans(&self, conns: Vec<Connection>) -> Result<Vec<Connection>> {
        let mut leases = HashMap::<u16, Option<u64>>::new();
        let mut orphans = Vec::new();
        for one in conns {
            let lease = match leases.entry(one.conn.local_port) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => {
                    let key = abi::PortKey {
                        port: *unknown.key(),
                        proto: abi::TCP,
                        pad: 0,
                    };
                    let lease = found(self.shared.maps().ports.get(&key, 0));
                    let lease = lease.on("read", "PORTS")?;
                    *unknown.insert(lease.map(|lease| lease.lease))
                }
            };
            if lease != Some(one.conn.lease) {
                orphans.push(one);
            }
        }
        Ok(orphans)
    }

    /// Destroys connections.
    fn destroy_all(&self, all: &[Connection]) -> Result<Ended> {
        let mut ended = Ended::default();
        let mut first = First(None);
        for Connection { cookie, conn } in all {
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

/// Whether something that is done every so many ns is due; if so, when it is the next time.
fn is_due(at: &mut u64, every: u64, now: u64) -> bool {
    let is = *at <= now;
    if is {
        *at = now + every;
    }
    is
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
