//! What the shield has at hand, so that it needs no hash for what passes: arrays derived from `PORTS` and
//! `LOCALS`, which stay the truth. They are of the programs that were loaded with them, and not pinned.

use std::collections::HashSet;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use totoro_ebpf::abi;
use totoro_ebpf::logic::{pool, prefix};
use totoro_ebpf::packet::{Words, words};

use super::{Context, Result};

/// The arrays. Each has a place for all that can be in it, so nothing of it is ever full.
pub(super) struct Near {
    gates: Array<MapData, abi::Gate>,
    tats: Array<MapData, u64>,
    locals: Array<MapData, Words>,
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
            tats: take!("SYN_TATS"),
            locals: take!("NEAR"),
        })
    }

    /// Enters a lease that is in `PORTS`; with its whole budget where it is `fresh`.
    pub(super) fn open(
        &mut self,
        key: abi::PortKey,
        lease: &abi::Lease,
        fresh: bool,
    ) -> Result<()> {
        let place = pool::place(key.proto, key.port);
        if fresh {
            self.tats.set(place, 0, 0).on("write", "SYN_TATS")?;
        }
        let gate = abi::Gate::of(lease);
        self.gates.set(place, gate, 0).on("write", "GATES")
    }

    /// Forgets a lease that is about to leave `PORTS`.
    pub(super) fn close(&mut self, key: abi::PortKey) -> Result<()> {
        let place = pool::place(key.proto, key.port);
        let nothing = abi::Gate::default();
        self.gates.set(place, nothing, 0).on("write", "GATES")
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
}
