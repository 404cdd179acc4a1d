//! What is attached, and whether it still is: interfaces come and go under a running daemon, a
//! cgroup may be deleted and made again, and a dead link says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use aya::Ebpf;

use super::links::StaleLinks;
use super::pins::PinDir;
use super::{Filter, Kernel, KernelOptions, Result, XdpMode, filter, links};

/// The programs and their links.
pub(super) struct Loaded {
    /// Holds the programs' descriptors; links and maps are pinned.
    pub(super) ebpf: Ebpf,
    pins: PinDir,
    cgroup: PathBuf,
    mode: XdpMode,
    wanted: BTreeSet<String>,
    find: Option<fn() -> Vec<String>>,
    attached: BTreeMap<String, Attached>,
    missing: BTreeMap<String, Vec<String>>,
    /// Links, but those of interfaces, that an earlier daemon's program is still on.
    stale: StaleLinks,
    /// A link that tags UDP sockets was dead, and nobody has asked since.
    untagged: bool,
}

/// A filter on an interface.
#[derive(Clone, Copy, Debug)]
struct Attached {
    /// An interface that went and came back has another index.
    index: u32,
    mode: &'static str,
    /// An earlier daemon's program is still on it.
    stale: bool,
}

impl Loaded {
    /// Attaches everything. When that fails, what was attached now is detached again: programs
    /// without a daemon that ever ran would refuse the whole pool.
    pub(super) fn attach(ebpf: Ebpf, pins: PinDir, options: &KernelOptions) -> Result<Loaded> {
        let mut loaded = Loaded {
            ebpf,
            pins,
            cgroup: options.cgroup.clone(),
            mode: options.xdp,
            wanted: options.interfaces.iter().cloned().collect(),
            find: options.find_interfaces,
            attached: BTreeMap::new(),
            missing: BTreeMap::new(),
            stale: StaleLinks::new(),
            untagged: false,
        };
        let before = loaded.pins.links()?;
        if let Err(error) = loaded.attach_all() {
            for name in loaded.pins.links()?.difference(&before) {
                loaded.pins.unpin(name)?;
            }
            return Err(error);
        }
        Ok(loaded)
    }

    fn attach_all(&mut self) -> Result<()> {
        links::load_all(&mut self.ebpf)?;
        links::surplus(&mut self.ebpf)?;
        self.stale = links::attach(&mut self.ebpf, &self.pins, &self.cgroup, |_| true)?;
        self.filter();
        self.forget_unwanted()
    }

    /// Filters the interfaces that are not yet, or not any more; how many had lost their filter.
    fn filter(&mut self) -> usize {
        if let Some(find) = self.find {
            // An interface stays wanted while it is there, so that a route that comes and goes
            // does not take the filter along.
            self.wanted.retain(|name| filter::index(name).is_some());
            self.wanted.extend(find());
        }
        self.attached.retain(|name, attached| {
            self.wanted.contains(name) && filter::index(name) == Some(attached.index)
        });
        let before = self.attached.len();
        self.attached.retain(|name, attached| {
            let lives = filter::lives(&self.pins, name, attached.index, attached.mode);
            if !lives {
                tracing::error!(
                    interface = name,
                    "its filter was detached; attaching afresh"
                );
            }
            lives
        });
        let lost = before - self.attached.len();
        self.missing.retain(|name, _| self.wanted.contains(name));
        for name in &self.wanted {
            let again = match self.attached.get(name) {
                Some(attached) if !attached.stale => continue,
                attached => attached.is_some(),
            };
            let (mut lines, mut stale) = (Vec::new(), Vec::new());
            let (ebpf, pins) = (&mut self.ebpf, &self.pins);
            let told = (&mut lines, &mut stale);
            match filter::attach(ebpf, pins, name, self.mode, again, told) {
                Ok(mode) => {
                    if let Some(index) = filter::index(name) {
                        let attached = Attached {
                            index,
                            mode,
                            stale: !stale.is_empty(),
                        };
                        self.attached.insert(name.clone(), attached);
                    }
                }
                // Reported, not fatal: the socket lookup guards it all the same.
                Err(error) => {
                    lines.push(format!(
                        "{name}: no filter before the stack ({}); the socket lookup still \
                         refuses what has no lease",
                        error.whole()
                    ));
                }
            }
            lines.extend(stale);
            self.missing.insert(name.clone(), lines);
        }
        lost
    }

    /// Unpins what belongs to no filter of now: of interfaces that are gone, or no longer wanted.
    fn forget_unwanted(&self) -> Result<()> {
        let mut expected: BTreeSet<String> = links::names().map(str::to_owned).collect();
        for (name, attached) in &self.attached {
            expected.extend(filter::pins_of(name, attached.mode));
        }
        for name in self.pins.links()?.difference(&expected) {
            tracing::info!(link = name, "unpinned: it belongs to no filter any more");
            self.pins.unpin(name)?;
        }
        Ok(())
    }

    /// Attaches again what is dead or gone, and what came back: how many links, how many interfaces.
    fn check(&mut self) -> Result<(usize, usize)> {
        let dead = links::dead(&self.pins.dir.join("links"), &self.cgroup)?;
        if !dead.is_empty() {
            tracing::error!(links = ?dead, "links were dead: limits were off; attaching afresh");
        }
        self.untagged |= dead.iter().any(|name| links::TAGGING.contains(name));
        let before = (self.shown(), self.missing());
        // Only these: the others run this daemon's programs.
        let wanted = |name: &str| dead.contains(&name) || self.stale.contains_key(name);
        if !dead.is_empty() || !self.stale.is_empty() {
            self.stale = links::attach(&mut self.ebpf, &self.pins, &self.cgroup, wanted)?;
        }
        let lost = self.filter();
        let after = (self.shown(), self.missing());
        if before != after {
            tracing::warn!(filters = ?after.0, missing = ?after.1, "links or interfaces changed");
            self.forget_unwanted()?;
        }
        let anew = after.0.iter().filter(|now| !before.0.contains(now));
        // What was lost and is filtered as before is no news in `after`.
        Ok((dead.len(), anew.count().max(lost)))
    }

    fn shown(&self) -> Vec<(String, u32, &'static str)> {
        let all = self.attached.iter();
        all.map(|(name, attached)| (name.clone(), attached.index, attached.mode))
            .collect()
    }

    fn missing(&self) -> Vec<String> {
        let all = self.missing.values().flatten().chain(self.stale.values());
        all.cloned().collect()
    }
}

impl Kernel {
    /// What is on which interface.
    #[must_use]
    pub fn filters(&self) -> Vec<Filter> {
        let loaded = self.loaded();
        let all = loaded.attached.iter();
        all.map(|(interface, attached)| Filter {
            interface: interface.clone(),
            mode: attached.mode,
        })
        .collect()
    }

    /// What is missing for a complete grade `kernel`, one line each; empty = complete.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.loaded().missing()
    }

    /// Looks whether everything is attached still, and attaches what is not; interfaces that came,
    /// went or came back too: how many links, and how many interfaces, were attached anew. Call it
    /// in the node's network namespace.
    ///
    /// # Errors
    /// When a link can't be read or attached.
    pub fn check_links(&self) -> Result<(usize, usize)> {
        self.loaded().check()
    }

    /// Whether UDP sockets may have been bound without a tag since this was asked last.
    pub(super) fn take_untagged(&self) -> bool {
        std::mem::take(&mut self.loaded().untagged)
    }
}
