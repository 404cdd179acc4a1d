//! The maps: filled with what a world says, and read.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap as BpfMap, MapData, PerCpuHashMap, RingBuf};
use aya::{Ebpf, Pod};
use totoro_ebpf::abi;
use totoro_model::{Span, Timed, World};

use super::Node;

/// Maps that are made smaller than on a node.
pub(super) const SMALL: [&str; 16] = [
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
    "SURPLUS",
];

type Table<K, V> = BpfMap<MapData, K, V>;

/// The maps that the packets' programs use.
pub(super) struct Maps {
    config: Array<MapData, abi::Config>,
    pool: Array<MapData, u64>,
    locals: Table<abi::Addr, u32>,
    bans: LpmTrie<MapData, abi::Addr, abi::Ban>,
    ports: Table<abi::PortKey, abi::Lease>,
    port_usage: Table<abi::PortKey, abi::PortUsage>,
    tenants: Table<u32, abi::Tenant>,
    usage: Table<u32, abi::Usage>,
    flows_closed: Table<u32, u64>,
    sources: Table<abi::SourceKey, abi::Source>,
    flows: Table<abi::FlowKey, abi::Flow>,
    candidates: Table<abi::FlowKey, abi::Flow>,
    outbound: Table<abi::OutboundKey, u64>,
    control: Table<abi::ControlKey, abi::Control>,
    sketch: Array<MapData, u64>,
    reasons: PerCpuHashMap<MapData, abi::ReasonKey, abi::ReasonCount>,
    pub(super) events: RingBuf<MapData>,
    /// Words of `POOL` that are not zero.
    pool_words: HashSet<u32>,
}

impl Maps {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Maps> {
        Ok(Maps {
            config: take!(ebpf, "CONFIG"),
            pool: take!(ebpf, "POOL"),
            locals: take!(ebpf, "LOCALS"),
            bans: take!(ebpf, "BANS"),
            ports: take!(ebpf, "PORTS"),
            port_usage: take!(ebpf, "PORT_USAGE"),
            tenants: take!(ebpf, "TENANTS"),
            usage: take!(ebpf, "USAGE"),
            flows_closed: take!(ebpf, "FLOWS_CLOSED"),
            sources: take!(ebpf, "SOURCES"),
            flows: take!(ebpf, "FLOWS"),
            candidates: take!(ebpf, "CANDIDATES"),
            outbound: take!(ebpf, "OUTBOUND"),
            control: take!(ebpf, "CONTROL"),
            sketch: take!(ebpf, "SKETCH"),
            reasons: take!(ebpf, "REASONS"),
            events: take!(ebpf, "EVENTS"),
            pool_words: HashSet::new(),
        })
    }

    fn fill_pool(&mut self, pool: &HashSet<(u8, u16)>) -> Result<()> {
        let mut words: HashMap<u32, u64> = (self.pool_words.drain()).map(|at| (at, 0)).collect();
        for &(proto, port) in pool {
            let half = if proto == abi::TCP {
                0
            } else {
                abi::POOL_WORDS / 2
            };
            *words.entry(half + u32::from(port) / 64).or_default() |= 1 << (port % 64);
        }
        for (at, word) in words {
            self.pool.set(at, word, 0)?;
            if word != 0 {
                self.pool_words.insert(at);
            }
        }
        Ok(())
    }

    fn fill_bans(&mut self, bans: &HashMap<(u32, abi::Addr), abi::Ban>) -> Result<()> {
        let there: Vec<_> = self.bans.keys().collect::<Result<_, _>>()?;
        for key in there {
            self.bans.remove(&key)?;
        }
        for ((length, addr), ban) in bans {
            self.bans.insert(&Key::new(*length, *addr), *ban, 0)?;
        }
        Ok(())
    }
}

/// Empties a map and fills it.
fn fill<K: Pod, V: Pod>(
    map: &mut Table<K, V>,
    entries: impl IntoIterator<Item = (K, V)>,
) -> Result<()> {
    let there: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in there {
        map.remove(&key)?;
    }
    for (key, value) in entries {
        map.insert(key, value, 0)?;
    }
    Ok(())
}

fn pairs<K: Copy, V: Copy>(map: &HashMap<K, V>) -> impl Iterator<Item = (K, V)> {
    map.iter().map(|(key, value)| (*key, *value))
}

/// All entries of a map.
fn read<K: Pod + Eq + Hash, V: Pod, T>(
    map: &Table<K, V>,
    of: impl Fn(V) -> T,
) -> Result<HashMap<K, T>> {
    let mut all = HashMap::new();
    for entry in map.iter() {
        let (key, value) = entry?;
        all.insert(key, of(value));
    }
    Ok(all)
}

impl Node {
    /// Has the maps hold what a world says, and nothing else. `spent` is the world before: cells of its
    /// sketch are emptied.
    ///
    /// # Errors
    /// When a map does not take it.
    pub fn install(&mut self, world: &World, spent: Option<&World>) -> Result<()> {
        self.told()?;
        self.near.fill(world, self.is_near)?;
        let maps = &mut self.maps;
        let flows: Vec<abi::FlowKey> = maps.flows.keys().collect::<Result<_, _>>()?;
        let before = maps.config.get(&0, 0)?;
        self.near.forget(&flows, before.sketch_seed)?;
        maps.config.set(0, world.config, 0)?;
        maps.fill_pool(&world.pool)?;
        maps.fill_bans(&world.bans)?;
        fill(&mut maps.locals, world.locals.iter().map(|addr| (*addr, 1)))?;
        fill(&mut maps.ports, pairs(&world.ports))?;
        fill(
            &mut maps.port_usage,
            pairs(&world.port_usage).map(|(key, usage)| {
                let syn_tat_ns = usage.at.from;
                (
                    key,
                    abi::PortUsage {
                        syn_tat_ns,
                        ..usage.is
                    },
                )
            }),
        )?;
        fill(&mut maps.tenants, pairs(&world.tenants))?;
        fill(
            &mut maps.usage,
            pairs(&world.usage).map(|(key, usage)| {
                let last_ns = usage.at.from;
                (
                    key,
                    abi::Usage {
                        last_ns,
                        ..usage.is
                    },
                )
            }),
        )?;
        fill(&mut maps.flows_closed, pairs(&world.flows_closed))?;
        fill(
            &mut maps.sources,
            pairs(&world.sources).map(|(key, source)| {
                let (conns, last_ns) = (source.is, source.at.from);
                (key, abi::Source { conns, last_ns })
            }),
        )?;
        fill(&mut maps.flows, pairs(&world.flows))?;
        fill(&mut maps.candidates, pairs(&world.candidates))?;
        fill(
            &mut maps.outbound,
            pairs(&world.outbound).map(|(key, at)| (key, at.from)),
        )?;
        fill(&mut maps.control, pairs(&world.control))?;
        for cell in spent.iter().flat_map(|world| world.sketch.keys()) {
            maps.sketch.set(*cell, 0, 0)?;
        }
        for (cell, at) in &world.sketch {
            maps.sketch.set(*cell, at.from, 0)?;
        }
        let there: Vec<_> = maps.reasons.keys().collect::<Result<_, _>>()?;
        for key in there {
            maps.reasons.remove(&key)?;
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        for (key, row) in &world.reasons {
            // On each processor, as it is told of by each.
            let (count, last_ns) = (row.is, row.at.from);
            let rows = vec![abi::ReasonCount { count, last_ns }; cpus];
            maps.reasons.insert(*key, rows.try_into()?, 0)?;
        }
        Ok(())
    }

    /// What the maps hold that the programs may have changed; the rest, and the cells of the sketch that
    /// are asked for, as in `world`. Refusals are those of the processor that counted the most.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn state(&self, world: &World) -> Result<World> {
        let maps = &self.maps;
        let mut state = World {
            port_usage: read(&maps.port_usage, |usage| Timed {
                at: Span::exactly(usage.syn_tat_ns),
                is: abi::PortUsage {
                    syn_tat_ns: 0,
                    ..usage
                },
            })?,
            usage: read(&maps.usage, |usage| Timed {
                at: Span::exactly(usage.last_ns),
                is: abi::Usage {
                    last_ns: 0,
                    ..usage
                },
            })?,
            flows_closed: read(&maps.flows_closed, |closed| closed)?,
            sources: read(&maps.sources, |source| Timed {
                is: source.conns,
                at: Span::exactly(source.last_ns),
            })?,
            flows: read(&maps.flows, |flow| flow)?,
            candidates: read(&maps.candidates, |flow| flow)?,
            outbound: read(&maps.outbound, Span::exactly)?,
            control: read(&maps.control, |control| control)?,
            ..world.clone()
        };
        for (cell, at) in &mut state.sketch {
            *at = Span::exactly(maps.sketch.get(cell, 0)?);
        }
        self.near.read(&mut state)?;
        state.reasons.clear();
        for entry in maps.reasons.iter() {
            let (key, rows) = entry?;
            let row = rows.iter().max_by_key(|row| (row.count, row.last_ns));
            let row = row.context("a value of no processor")?;
            let (is, at) = (row.count, Span::exactly(row.last_ns));
            state.reasons.insert(key, Timed { is, at });
        }
        Ok(state)
    }

    /// Empties the whole sketch, when it is not known which cells were spent.
    ///
    /// # Errors
    /// When the map can't be read or written.
    pub fn wipe_sketch(&mut self) -> Result<()> {
        for cell in self.spent_cells()? {
            self.maps.sketch.set(cell, 0, 0)?;
        }
        Ok(())
    }

    /// Cells of the sketch that are not zero.
    ///
    /// # Errors
    /// When the map can't be read.
    pub fn spent_cells(&self) -> Result<HashSet<u32>> {
        let mut spent = HashSet::new();
        for cell in 0..self.maps.sketch.len() {
            if self.maps.sketch.get(&cell, 0)? != 0 {
                spent.insert(cell);
            }
        }
        Ok(spent)
    }
}
