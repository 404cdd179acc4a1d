//! What the shield has at hand, so that it needs no hash for what passes: arrays derived from `PORTS`,
//! `LOCALS` and `BANS`, which stay the truth. They are of the programs that were loaded with them, and not pinned.

use std::collections::{HashMap, HashSet};

use aya::Ebpf;
use aya::maps::{Array, MapData};
use totoro_ebpf::abi;
use totoro_ebpf::logic::{banned, pool, prefix};
use totoro_ebpf::packet::{Words, words};

use super::{Context, KernelError, Result};

/// The arrays. Each has a place for all that can be in it, so nothing of it is ever full.
pub(super) struct Near {
    gates: Array<MapData, abi::Gate>,
    locals: Array<MapData, Words>,
    banned: Array<MapData, u64>,
    /// Places of `banned` that are not zero, as they were written; the head too.
    marks: HashMap<u32, u64>,
    singles: Array<MapData, abi::Single>,
    /// Places of `singles` that are not zero.
    entered: HashMap<u32, abi::Single>,
    /// Of the hashes: nobody can choose sources for which the trie is walked in vain.
    seed: u64,
}

impl Near {
    /// Takes them from the object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Near> {
        macro_rules! take {
            ($name:literal) => {
                super::load::take(ebpf, $name)?
                    .try_into()
                    .on("use map", $name)?
            };
        }
        Ok(Near {
            gates: take!("GATES"),
            locals: take!("NEAR"),
            banned: take!("BANNED"),
            marks: HashMap::new(),
            singles: take!("SINGLES"),
            entered: HashMap::new(),
            seed: super::load::random()?,
        })
    }

    /// Enters a lease that is in `PORTS`, and was written by another daemon's programs.
    pub(super) fn open(&mut self, key: abi::PortKey, lease: &abi::Lease) -> Result<()> {
        let place = pool::place(key.proto, key.port);
        let gate = abi::Gate::of(lease);
        self.gates.set(place, gate, 0).on("write", "GATES")
    }

    /// Keeps one of the node's addresses of each family at hand: the same as before while the node has
    /// it, else the lowest that users can come to.
    pub(super) fn choose(&mut self, locals: &HashSet<abi::Addr>) -> Result<()> {
        for (place, v4) in [(0, true), (1, false)] {
            let before = self.locals.get(&place, 0).on("read", "NEAR")?;
            let ours = locals
                .iter()
                .filter(|addr| prefix::is_v4(addr) == v4 && !prefix::never_a_user(addr));
            if ours.clone().any(|addr| words(addr) == before) {
                continue;
            }
            let chosen = ours.min().map_or([0; 2], words);
            if chosen != before {
                self.locals.set(place, chosen, 0).on("write", "NEAR")?;
            }
        }
        Ok(())
    }

    /// Keeps at hand whose bans are not in `BANS`: nobody's but those of `bans`, its keys. Before one is
    /// entered there, and after one was removed.
    pub(super) fn mark(&mut self, bans: impl IntoIterator<Item = (u32, abi::Addr)>) -> Result<()> {
        let mut marks = HashMap::new();
        let head = banned::fill(self.seed, bans, |place, bit| {
            *marks.entry(place).or_default() |= bit;
        });
        let written = self.write_marks(&marks, head);
        written.or_else(|error| self.know_nothing(error))
    }

    /// Has those of `bans`, its keys and their ends, that are of single addresses at hand, and no others.
    /// After all that is entered there and removed.
    pub(super) fn enter_singles(
        &mut self,
        bans: impl IntoIterator<Item = ((u32, abi::Addr), u64)>,
    ) -> Result<()> {
        let wanted = singles(self.seed, bans);
        let written = self.write_singles(wanted);
        written.or_else(|error| self.know_nothing(error))
    }

    fn write_singles(&mut self, mut wanted: HashMap<u32, abi::Single>) -> Result<()> {
        for place in self.entered.keys() {
            wanted.entry(*place).or_default();
        }
        for (place, single) in wanted {
            if self.entered.get(&place) != Some(&single) {
                self.singles.set(place, single, 0).on("write", "SINGLES")?;
            }
            if single == abi::Single::default() {
                self.entered.remove(&place);
            } else {
                self.entered.insert(place, single);
            }
        }
        Ok(())
    }

    /// Has `BANS` asked for everybody, after an error; the next time all is written.
    fn know_nothing(&mut self, error: KernelError) -> Result<()> {
        self.marks.clear();
        self.banned
            .set(0, banned::UNKNOWN, 0)
            .on("write", "BANNED")?;
        Err(error)
    }

    /// The head last: it says what the bits are of.
    fn write_marks(&mut self, marks: &HashMap<u32, u64>, head: u64) -> Result<()> {
        for place in self.marks.keys().filter(|place| **place != 0) {
            if !marks.contains_key(place) {
                self.banned.set(*place, 0, 0).on("write", "BANNED")?;
            }
        }
        for (place, word) in marks {
            if self.marks.get(place) != Some(word) {
                self.banned.set(*place, *word, 0).on("write", "BANNED")?;
            }
        }
        if self.marks.get(&0) != Some(&head) {
            self.banned.set(0, head, 0).on("write", "BANNED")?;
        }
        self.marks.clone_from(marks);
        self.marks.insert(0, head);
        Ok(())
    }
}

/// Bans of single addresses by their places. Of two that have one place the second is not there.
fn singles(
    seed: u64,
    bans: impl IntoIterator<Item = ((u32, abi::Addr), u64)>,
) -> HashMap<u32, abi::Single> {
    let mut all = HashMap::new();
    for ((bits, addr), until_ns) in bans {
        if bits == 128 {
            let hash = banned::hash_of_single(seed, &addr);
            let place = banned::place_of_single(hash);
            all.entry(place).or_insert(abi::Single { hash, until_ns });
        }
    }
    all
}
