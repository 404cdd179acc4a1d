//! What the shield has at hand, so that it needs no hash for what passes: arrays derived from `PORTS`,
//! `LOCALS` and `BANS`, which stay the truth. They are of the programs that were loaded with them: no daemon
//! adopts another's. It finds them by pins of their own, and has them say nothing: programs that go on with
//! them ask the truth.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use aya::maps::{Array, MapData, MapInfo, MapType};
use aya::{Ebpf, Pod};
use totoro_ebpf::abi;
use totoro_ebpf::logic::{banned, near, pool, prefix};
use totoro_ebpf::packet::{Words, words};

use super::pins::{PinDir, START_OVER};
use super::{Context, KernelError, Result, failed, sys};

/// Those that speak for what they are derived from. The shield's own notes (`KNOWN`, `HEARD`, `SYN_TATS`) let
/// nobody in: what passes it is judged again.
const ARRAYS: [&str; 4] = ["GATES", "NEAR", "BANNED", "SINGLES"];

/// Has the programs of an earlier daemon, whose pins are in `dir`, ask the truth. Nobody writes down any more
/// for them what changes, and they may go on: the kernel may refuse ours their links.
pub(super) fn silence(dir: &Path) -> Result<()> {
    for name in ARRAYS {
        let path = dir.join(name);
        // Builds before this had none.
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).on("open the pinned map", name)?;
        // Of whatever size: another build's may have another layout, and zeros say the same in all.
        let kind = info.map_type().on("look at the pinned map", name)?;
        if kind != MapType::Array {
            let problem = format!("it is no array ({kind:?}), so not ours. {START_OVER}");
            return Err(failed("adopt", path.display().to_string(), problem));
        }
        let map = sys::get(&path).on("open the pinned map", name)?;
        sys::zero(map, info.value_size() as usize, info.max_entries()).on("write", name)?;
    }
    Ok(())
}

/// The arrays. Each has a place for all that can be in it, so nothing of it is ever full.
pub(super) struct Near {
    gates: Array<MapData, abi::Gate>,
    locals: Written<Words>,
    /// All but its first place, which is the head.
    banned: Written<u64>,
    head: u64,
    singles: Written<abi::Single>,
    /// Addresses of the node's for which there was no room in `LOCALS`.
    pub(super) left_out: usize,
    /// Of the hashes: nobody can choose sources for which the trie is walked in vain.
    seed: u64,
}

impl Near {
    /// Takes them from the object, and pins them for the next daemon to silence, in place of those of the
    /// daemon before, which must be silent by now. Before a program that uses them is attached.
    pub(super) fn take(ebpf: &mut Ebpf, pins: &PinDir) -> Result<Near> {
        for name in ARRAYS {
            let path = pins.near().join(name);
            if path.exists() {
                fs::remove_file(&path).on("unpin", name)?;
            }
            let map = ebpf
                .map(name)
                .ok_or_else(|| failed("find in the object", name, "no such map"))?;
            map.pin(&path).on("pin", name)?;
        }
        macro_rules! take {
            ($name:literal) => {
                super::load::take(ebpf, $name)?
                    .try_into()
                    .on("use map", $name)?
            };
        }
        Ok(Near {
            gates: take!("GATES"),
            locals: Written::new("NEAR", take!("NEAR")),
            banned: Written::new("BANNED", take!("BANNED")),
            head: banned::UNKNOWN,
            singles: Written::new("SINGLES", take!("SINGLES")),
            left_out: 0,
            seed: super::load::random()?,
        })
    }

    /// Enters a lease that is in `PORTS`, and was written by another daemon's programs.
    pub(super) fn open(&mut self, key: abi::PortKey, lease: &abi::Lease) -> Result<()> {
        let place = pool::place(key.proto, key.port);
        let gate = abi::Gate::of(lease);
        self.gates.set(place, gate, 0).on("write", "GATES")
    }

    /// Keeps the node's addresses at hand to which users can come: all but those, few if any, whose place another
    /// has.
    pub(super) fn place(&mut self, locals: &HashSet<abi::Addr>) -> Result<()> {
        let mut places = HashMap::new();
        for addr in locals.iter().filter(|addr| !prefix::never_a_user(addr)) {
            let addr = words(addr);
            let chosen = places.entry(near::place(addr)).or_insert(addr);
            // Whichever, but the same each time.
            *chosen = addr.min(*chosen);
        }
        self.locals.become_these(places)
    }

    /// Keeps at hand whose bans are not in `BANS`: nobody's but those of `bans`, its keys. Before one is
    /// entered there, and after one was removed.
    pub(super) fn mark(&mut self, bans: impl IntoIterator<Item = (u32, abi::Addr)>) -> Result<()> {
        let mut marks = HashMap::new();
        let head = banned::fill(self.seed, bans, |place, bit| {
            *marks.entry(place).or_default() |= bit;
        });
        // The head last: it says what the bits are of.
        let written = self.banned.become_these(marks);
        let written = written.and_then(|()| self.set_head(head));
        written.or_else(|error| self.know_nothing(error))
    }

    /// Has those of `bans`, its keys and their ends, that are of single addresses at hand, and no others.
    /// After all that is entered there and removed.
    pub(super) fn enter_singles(
        &mut self,
        bans: impl IntoIterator<Item = ((u32, abi::Addr), u64)>,
    ) -> Result<()> {
        let written = self.singles.become_these(singles(self.seed, bans));
        written.or_else(|error| self.know_nothing(error))
    }

    /// Has `BANS` asked for everybody, after an error.
    fn know_nothing(&mut self, error: KernelError) -> Result<()> {
        self.set_head(banned::UNKNOWN)?;
        Err(error)
    }

    fn set_head(&mut self, head: u64) -> Result<()> {
        if self.head != head {
            self.banned.set(0, head)?;
            self.head = head;
        }
        Ok(())
    }
}

/// An array that is zeros at first, and what was written to it.
struct Written<V: Pod> {
    name: &'static str,
    array: Array<MapData, V>,
    /// Places that are not zeros.
    places: HashMap<u32, V>,
}

impl<V: Pod + PartialEq + Default> Written<V> {
    fn new(name: &'static str, array: Array<MapData, V>) -> Self {
        Written {
            name,
            array,
            places: HashMap::new(),
        }
    }

    fn set(&mut self, place: u32, value: V) -> Result<()> {
        self.array.set(place, value, 0).on("write", self.name)
    }

    /// Writes what differs from these, all others being zeros. After an error what was written is known.
    fn become_these(&mut self, mut wanted: HashMap<u32, V>) -> Result<()> {
        for place in self.places.keys() {
            wanted.entry(*place).or_default();
        }
        for (place, value) in wanted {
            if self.places.get(&place) == Some(&value) {
                continue;
            }
            self.set(place, value)?;
            if value == V::default() {
                self.places.remove(&place);
            } else {
                self.places.insert(place, value);
            }
        }
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
            let (place, single) = banned::single(seed, &addr, until_ns);
            all.entry(place).or_insert(single);
        }
    }
    all
}
