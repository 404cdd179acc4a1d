//! What an uninstallation leaves: looked at, and not assumed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Context, Result, sys};

/// What an uninstallation took out of the kernel, and what it let be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uninstalled {
    /// Pins of maps and links, of every ABI.
    pub pins: Vec<PathBuf>,
    /// Filters that are no links, so not pinned: which, and on which interface.
    pub filters: Vec<String>,
    /// Interfaces whose clsact qdisc, which was added here, is gone again.
    pub qdiscs: Vec<String>,
    /// Those that keep it: somebody else uses it by now.
    pub used_qdiscs: Vec<String>,
}

/// The kernel frees a program a moment after its last holder is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// The ids of the programs that the links pinned under `pin_root` run, of whichever ABI. What is
/// there and is no link is nobody's program.
#[must_use]
pub fn attached_programs(pin_root: &Path) -> BTreeSet<u32> {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries(pin_root)
        .flat_map(|abi| entries(&abi.path().join("links")).collect::<Vec<_>>())
        .filter_map(|link| sys::get(&link.path()).and_then(sys::link_info).ok())
        .map(|link| link.program)
        .collect()
}

/// Those of `programs` that are loaded still, after a moment's patience. Looks as root.
///
/// # Errors
/// The kernel does not list its programs.
pub fn still_loaded(programs: &BTreeSet<u32>) -> Result<BTreeSet<u32>> {
    let begun = Instant::now();
    while !programs.is_empty() {
        let mut left = BTreeSet::new();
        for loaded in aya::programs::loaded_programs() {
            let id = loaded.on("list", "loaded programs")?.id();
            left.extend(programs.contains(&id).then_some(id));
        }
        if left.is_empty() || begun.elapsed() > PATIENCE {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(BTreeSet::new())
}
