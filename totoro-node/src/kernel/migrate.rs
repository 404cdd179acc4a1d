//! Taking over from an older ABI version: its pins lie beside ours, and its programs go on until
//! ours replace them, link by link.
//!
//! Maps that the kernel writes are the very same in both directories (a second name of one pin), so
//! that old and new programs count in one place while both run, and the tags of live sockets stay.
//! Their layout is therefore frozen: what a later version adds goes into a map of its own. Maps
//! that only the daemon writes may change, and are copied, each entry converted.
//!
//! A kill at any point leaves a state that the next start goes on from: who has links pinned in our
//! directory has all maps there, and who has none begins again.

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use totoro_ebpf::abi;

use super::maps::PINNED;
use super::pins::{self, PinDir};
use super::{Context, Result, failed, sys};

/// Makes an entry of a changed map: key and value, from those of the older version.
pub type Convert = fn(&[u8], &[u8]) -> (Vec<u8>, Vec<u8>);

/// Which pins are ours, and which are taken over.
#[derive(Clone, Copy, Debug)]
pub struct Abi {
    /// Names the pin directory.
    pub version: u32,
    /// Versions whose state is carried over.
    pub older: &'static [Older],
}

impl Abi {
    /// This build's.
    pub const CURRENT: Abi = Abi {
        version: abi::VERSION,
        older: &[],
    };
}

/// A version whose state is carried over, and what differs from it.
#[derive(Debug)]
pub struct Older {
    /// Its number.
    pub version: u32,
    /// Maps that it did not have.
    pub added: &'static [&'static str],
    /// Maps of the daemon's whose layout was another. `CONFIG` is copied in any case: programs
    /// follow only one of their own version.
    pub changed: &'static [Changed],
}

/// A map of the daemon's that had another layout.
#[derive(Debug)]
pub struct Changed {
    /// Its name.
    pub map: &'static str,
    /// Bytes of a key there.
    pub key_size: u32,
    /// Bytes of a value there.
    pub value_size: u32,
    /// What becomes of an entry.
    pub convert: Convert,
}

/// Older versions' directories, newest first, each locked: their daemons are not running.
#[derive(Debug)]
pub(super) struct Predecessors(Vec<(PinDir, &'static Older)>);

/// The versions that are pinned under `root`.
pub(super) fn versions(root: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let mut found: Vec<(u32, PathBuf)> = pins::names(root)?
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix('v')?.parse().ok()?, root.join(&name))))
        .collect();
    found.sort_by(|(one, _), (other, _)| other.cmp(one));
    Ok(found)
}

impl Predecessors {
    /// Looks who was here before, and refuses to start beside programs that can't be taken over:
    /// both would count and judge.
    pub(super) fn find(root: &Path, ours: Abi) -> Result<Predecessors> {
        let mut found = Vec::new();
        for (version, dir) in versions(root)? {
            if version == ours.version {
                continue;
            }
            if let Some(older) = ours.older.iter().find(|older| older.version == version) {
                found.push((PinDir::lock(root, version)?, older));
            } else if let Some(live) = pins::live_link(&dir)? {
                let shown = dir.display();
                let problem = if version > ours.version {
                    format!(
                        "programs of a newer Totoro (ABI {version}, this build's is {}) are \
                         attached ({live}): start that build, or have it removed: its \
                         totoro-node uninstall, or rm -r {shown}. Meanwhile they go on enforcing",
                        ours.version
                    )
                } else {
                    format!(
                        "programs of another version of Totoro are attached ({live}), ABI \
                         {version}, which this build can't take over: upgrade by way of a build \
                         that can, or drain the node and run: totoro-node uninstall. Meanwhile \
                         they go on enforcing"
                    )
                };
                return Err(failed("start beside", shown.to_string(), problem));
            }
        }
        Ok(Predecessors(found))
    }

    /// Where their links are pinned.
    pub(super) fn links(&self) -> Vec<PathBuf> {
        let dirs = self.0.iter().map(|(pins, _)| pins.dir.join("links"));
        dirs.collect()
    }

    /// Where what their programs have at hand is pinned.
    pub(super) fn near(&self) -> impl Iterator<Item = PathBuf> {
        self.0.iter().map(|(pins, _)| pins.near())
    }

    /// Whose state is to be carried: none once ours has links, since then it has all of it.
    fn source(&self, ours: &PinDir) -> Result<Option<&(PinDir, &'static Older)>> {
        if !ours.links()?.is_empty() {
            return Ok(None);
        }
        for one in &self.0 {
            if pins::live_link(&one.0.dir)?.is_some() {
                return Ok(Some(one));
            }
        }
        Ok(None)
    }

    /// Gives the maps that stay as they are their second name, before ours are loaded. Nothing is
    /// done when one can't be carried.
    pub(super) fn share(&self, ours: &PinDir, object: &aya_obj::Object) -> Result<()> {
        let Some((old, older)) = self.source(ours)? else {
            return Ok(());
        };
        let is_shared = |name: &&str| {
            let changed = older.changed.iter().any(|changed| changed.map == *name);
            *name != "CONFIG" && !changed && !older.added.contains(name)
        };
        let shared: Vec<_> = PINNED.iter().copied().filter(is_shared).collect();
        old.check(object, &shared)?;
        // Of a try that did not come to the first link.
        ours.remove_maps()?;
        for name in shared {
            let carried = fs::hard_link(old.dir.join(name), ours.dir.join(name));
            carried.on("carry over", name)?;
        }
        tracing::info!(from = older.version, "the maps were carried over");
        Ok(())
    }

    /// Fills our own copies of the others, before any program of ours runs.
    pub(super) fn copy(&self, ours: &PinDir) -> Result<()> {
        let Some((old, older)) = self.source(ours)? else {
            return Ok(());
        };
        if !older.changed.iter().any(|changed| changed.map == "CONFIG") {
            let size = size_of::<abi::Config>() as u32;
            copy("CONFIG", (4, size), old, ours, |key, value| {
                (key.to_vec(), value.to_vec())
            })?;
        }
        for changed in older.changed {
            let sizes = (changed.key_size, changed.value_size);
            copy(changed.map, sizes, old, ours, changed.convert)?;
        }
        Ok(())
    }

    /// Removes what was taken over. What has not been (a filter of an interface that is no longer
    /// wanted) is detached by that.
    pub(super) fn retire(self) {
        for (old, older) in self.0 {
            match old.remove() {
                Ok(_) => {
                    tracing::info!(version = older.version, "the older version's pins are gone")
                }
                // Tried again at the next start.
                Err(error) => tracing::warn!(error = error.whole(), "old pins stay"),
            }
        }
    }
}

/// Copies a map's entries. Its only writer is the daemon, of which there is one: us.
fn copy(
    name: &'static str,
    (key_size, value_size): (u32, u32),
    old: &PinDir,
    ours: &PinDir,
    convert: impl Fn(&[u8], &[u8]) -> (Vec<u8>, Vec<u8>),
) -> Result<()> {
    let from = old.dir.join(name);
    let (pinned, new) = (
        MapInfo::from_pin(&from).on("open the pinned map", name)?,
        MapInfo::from_pin(ours.dir.join(name)).on("open the pinned map", name)?,
    );
    let sizes = (pinned.key_size(), pinned.value_size());
    if sizes != (key_size, value_size) {
        let problem = format!(
            "its keys and values have {sizes:?} bytes, not {:?} as that version's: it is not \
             Totoro's; drain the node and run: totoro-node uninstall",
            (key_size, value_size)
        );
        return Err(failed("carry over", from.display().to_string(), problem));
    }
    let from = sys::get(&from).on("open the pinned map", name)?;
    let to = sys::get(&ours.dir.join(name)).on("open the pinned map", name)?;
    let mut key: Option<Vec<u8>> = None;
    let mut value = vec![0; value_size as usize];
    loop {
        let mut next = vec![0; key_size as usize];
        if !sys::next_key(&from, key.as_deref(), &mut next).on("read", name)? {
            return Ok(());
        }
        if sys::lookup(&from, &next, &mut value).on("read", name)? {
            let (new_key, new_value) = convert(&next, &value);
            let right = (new_key.len(), new_value.len())
                == (new.key_size() as usize, new.value_size() as usize);
            if !right {
                return Err(failed("convert", name, "an entry of another size came out"));
            }
            sys::update(&to, &new_key, &new_value).on("write", name)?;
        }
        key = Some(next);
    }
}
