//! What the filter has at hand in front of the hashes (docs/bpf-maps.md): filled as the daemon does, or
//! left empty; the verdicts are the same.

use std::collections::HashMap;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use totoro_ebpf::abi;
use totoro_ebpf::logic::{answered, banned, known, near, pool, prefix};
use totoro_ebpf::packet::words;
use totoro_model::{Span, World};

/// The arrays, and the clock's tick.
pub(super) struct Near {
    gates: Array<MapData, abi::Gate>,
    tats: Array<MapData, u64>,
    locals: Array<MapData, [u64; 2]>,
    banned: Array<MapData, u64>,
    known: Array<MapData, [u64; abi::KNOWN_WAYS]>,
    heard: Array<MapData, u64>,
    singles: Array<MapData, abi::Single>,
    answered: Array<MapData, abi::FlowKey>,
    tick: PerCpuArray<MapData, [u64; 2]>,
    cpus: usize,
    /// Places of `locals` that are not zero.
    placed: Vec<u32>,
    /// Ports whose gates are filled.
    filled: HashMap<u32, abi::PortKey>,
    /// Places of `banned` that are not zero.
    marks: HashMap<u32, u64>,
    /// Places of `singles` that are not zero.
    entered: Vec<u32>,
    /// Places of `answered` that are not zero.
    noted: Vec<u32>,
}

impl Near {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Near> {
        Ok(Near {
            gates: take!(ebpf, "GATES"),
            tats: take!(ebpf, "SYN_TATS"),
            locals: take!(ebpf, "NEAR"),
            banned: take!(ebpf, "BANNED"),
            known: take!(ebpf, "KNOWN"),
            heard: take!(ebpf, "HEARD"),
            singles: take!(ebpf, "SINGLES"),
            answered: take!(ebpf, "ANSWERED"),
            tick: take!(ebpf, "TICK"),
            cpus: aya::util::nr_cpus().map_err(|(_, error)| error)?,
            placed: Vec::new(),
            filled: HashMap::new(),
            marks: HashMap::new(),
            entered: Vec::new(),
            noted: Vec::new(),
        })
    }

    /// Empties the arrays, and fills them from a world where that is `wanted`.
    pub(super) fn fill(&mut self, world: &World, wanted: bool) -> Result<()> {
        for place in std::mem::take(&mut self.filled).into_keys() {
            self.gates.set(place, abi::Gate::default(), 0)?;
        }
        for place in self.placed.drain(..) {
            self.locals.set(place, [0; 2], 0)?;
        }
        for addr in world.locals.iter().map(words).filter(|_| wanted) {
            let place = near::place(addr);
            self.locals.set(place, addr, 0)?;
            self.placed.push(place);
        }
        for (place, _) in self.marks.drain().chain([(0, 0)]) {
            self.banned.set(place, banned::UNKNOWN, 0)?;
        }
        for place in self.entered.drain(..) {
            self.singles.set(place, abi::Single::default(), 0)?;
        }
        // No budget's clock says that it was too long ago.
        for flow in world.candidates.keys() {
            let remote = words(&flow.remote);
            let seed = world.config.sketch_seed;
            let mark = known::mark(remote, flow.remote_port, flow.port, seed);
            self.heard.set(known::heard(mark), u64::MAX, 0)?;
        }
        self.note(world)?;
        if !wanted {
            return Ok(());
        }
        for ((_, addr), ban) in world.bans.iter().filter(|((bits, _), _)| *bits == 128) {
            let seed = world.config.sketch_seed;
            let (place, single) = banned::single(seed, addr, ban.until_ns);
            self.singles.set(place, single, 0)?;
            self.entered.push(place);
        }
        let marks = &mut self.marks;
        let head = banned::fill(
            world.config.sketch_seed,
            world.bans.keys().copied(),
            |place, bit| {
                *marks.entry(place).or_default() |= bit;
            },
        );
        for (place, word) in &self.marks {
            self.banned.set(*place, *word, 0)?;
        }
        self.banned.set(0, head, 0)?;
        for (key, lease) in &world.ports {
            let gate = abi::Gate::of(lease);
            // One whose rate does not fit has none; one without a state would have a budget by its gate.
            let Some(usage) = world.port_usage.get(key).filter(|_| gate.tenant != 0) else {
                continue;
            };
            let place = pool::place(key.proto, key.port);
            self.gates.set(place, gate, 0)?;
            self.tats.set(place, usage.at.from, 0)?;
            self.filled.insert(place, *key);
        }
        Ok(())
    }

    /// Notes the flows that are to be noted, one after the other.
    fn note(&mut self, world: &World) -> Result<()> {
        for place in self.noted.drain(..) {
            self.answered.set(place, abi::FlowKey::default(), 0)?;
        }
        for note in notes(world) {
            self.answered.set(note.place, note.flow, 0)?;
            self.noted.push(note.place);
        }
        Ok(())
    }

    /// Clears the marks of flows that are about to be taken away behind the kernel's back.
    pub(super) fn forget(&mut self, flows: &[abi::FlowKey], seed: u64) -> Result<()> {
        for flow in flows {
            let remote = words(&flow.remote);
            let place = known::place(known::mark(remote, flow.remote_port, flow.port, seed));
            self.known.set(place, [0; abi::KNOWN_WAYS], 0)?;
        }
        Ok(())
    }

    /// Where budgets stand that are counted here.
    pub(super) fn read(&self, world: &mut World) -> Result<()> {
        for (place, key) in &self.filled {
            if let Some(usage) = world.port_usage.get_mut(key) {
                usage.at = Span::exactly(self.tats.get(place, 0)?);
            }
        }
        Ok(())
    }

    /// Has the next run read the clock, which is otherwise as of the processor's last tick.
    pub(super) fn forget_tick(&mut self) -> Result<()> {
        let never: PerCpuValues<_> = vec![[0; 2]; self.cpus].try_into()?;
        Ok(self.tick.set(0, never, 0)?)
    }
}

/// Where a flow is noted.
pub(crate) struct Note {
    /// In `ANSWERED`.
    pub(crate) place: u32,
    /// How many places there are for those that it is one of.
    pub(crate) of: u32,
    /// The flow.
    flow: abi::FlowKey,
}

/// Where the flows that are to be noted are: as their tenants', their parents' and their sources', each in the next
/// place.
pub(crate) fn notes(world: &World) -> Vec<Note> {
    let mut notes = Vec::new();
    let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
    let noted = world.answered.iter();
    for (key, flow) in noted.filter_map(|key| Some((*key, world.flows.get(key)?))) {
        let seed = world.config.sketch_seed;
        let source = prefix::source_words(words(&key.remote));
        let mut note = |first, number, of: Option<u32>| {
            let Some(of) = of else { return };
            let nth = counts.entry((first, number)).or_default();
            notes.push(Note {
                place: first + answered::place(number, of, *nth),
                of,
                flow: key,
            });
            *nth += 1;
        };
        let tenant = |number| world.tenants.get(&number);
        for number in payers(flow) {
            note(0, number, tenant(number).map(|tenant| tenant.max_flows));
        }
        let per_source = tenant(flow.tenant).map(|tenant| tenant.max_conns_per_source);
        let number = answered::number(source, flow.tenant, seed);
        note(abi::ANSWERED_PLACES, number, per_source);
    }
    notes
}

/// Whom a flow counts for: its tenant, and that one's parent.
fn payers(flow: &abi::Flow) -> Vec<u32> {
    let mut all = vec![flow.tenant, flow.parent];
    all.dedup();
    all.retain(|number| *number != 0);
    all
}
