//! Events that were lost on their way: for want of room in the ring, or in the daemon's queue behind it.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use serde::{Deserialize, Serialize};

use super::{Context, Result, boot_ns};

/// Events that were lost since the daemon started. Nothing hangs on them but how soon something is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The ring was full: the daemon did not read for a while, or more came than it reads.
    pub kernel: u64,
    /// The daemon's queue was full: it was read, and not acted upon as fast.
    pub daemon: u64,
    /// Since the last of them was noticed, seconds; `None` = none was.
    pub last_s: Option<u64>,
}

impl Lost {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.kernel.saturating_add(self.daemon)
    }
}

/// Where they are counted.
pub(super) struct Losses {
    /// `LOST`. Of the programs that were loaded with it: it begins at zero, as the ring is empty.
    kernel: PerCpuArray<MapData, u64>,
    daemon: AtomicU64,
    /// How many there were at the last look.
    seen: AtomicU64,
    /// When a look found more than the one before, boot-time ns; 0 = never.
    grew_ns: AtomicU64,
}

impl Losses {
    /// Takes the map from the object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Losses> {
        let kernel = super::load::take(ebpf, "LOST")?;
        Ok(Losses {
            kernel: kernel.try_into().on("use map", "LOST")?,
            daemon: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            grew_ns: AtomicU64::new(0),
        })
    }

    /// The queue had no room for one.
    pub(super) fn dropped(&self) {
        self.daemon.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there are, and when the last were noticed. Each second is often enough to say when.
    pub(super) fn look(&self) -> Result<Lost> {
        let by_cpu = self.kernel.get(&0, 0).on("read", "LOST")?;
        let mut lost = Lost {
            kernel: by_cpu.iter().sum(),
            daemon: self.daemon.load(Ordering::Relaxed),
            last_s: None,
        };
        let now = boot_ns();
        if self.seen.fetch_max(lost.total(), Ordering::Relaxed) < lost.total() {
            self.grew_ns.store(now, Ordering::Relaxed);
        }
        let grew_ns = self.grew_ns.load(Ordering::Relaxed);
        lost.last_s = (grew_ns != 0).then(|| now.saturating_sub(grew_ns) / 1_000_000_000);
        Ok(lost)
    }
}
