//! The pin directory: whose it is, and whether what lies there is what we take it for. Nothing in
//! it is trusted unchecked: aya opens a pinned map of any shape, and the kernel would then write
//! past our buffers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use nix::fcntl::{Flock, FlockArg};

use super::{Context, Result, failed, neighbours, sys};

/// `<root>/v<ABI>`: maps; `<root>/v<ABI>/links`: links; `<root>/v<ABI>/near`: what the programs have at hand.
#[derive(Debug)]
pub(super) struct PinDir {
    pub(super) dir: PathBuf,
    /// Directories of links that are taken over, see [`PinDir::inherit`].
    older: Vec<PathBuf>,
    /// Held while the daemon lives, so that a second one refuses.
    _lock: Flock<File>,
}

/// Where the maps of this build's ABI are.
pub(super) fn map_dir(root: &Path) -> PathBuf {
    version_dir(root, totoro_ebpf::abi::VERSION)
}

fn version_dir(root: &Path, version: u32) -> PathBuf {
    root.join(format!("v{version}"))
}

impl PinDir {
    /// Makes (mode 0700) and locks the directory of an ABI version.
    pub(super) fn lock(root: &Path, version: u32) -> Result<PinDir> {
        let dir = version_dir(root, version);
        let shown = || dir.display().to_string();
        if !is_on_bpffs(root) {
            let problem = "it is not on a BPF file system; run: mount -t bpf bpf /sys/fs/bpf";
            return Err(failed("pin under", root.display().to_string(), problem));
        }
        for dir in [root, &dir, &dir.join("links"), &dir.join("near")] {
            let made = fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(dir);
            made.on("create", dir.display().to_string())?;
            ours(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
                .on("restrict", dir.display().to_string())?;
        }
        let handle = File::open(&dir).on("open", shown())?;
        let lock = Flock::lock(handle, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| {
            let problem = if error == nix::errno::Errno::EWOULDBLOCK {
                "another totoro-node holds it; stop that one first, or give this one a pin_root of \
                 its own"
                    .to_owned()
            } else {
                error.to_string()
            };
            failed("lock", shown(), problem)
        })?;
        Ok(PinDir {
            dir,
            older: Vec::new(),
            _lock: lock,
        })
    }

    /// Has a link that is not pinned here taken from the first of these directories that has it.
    pub(super) fn inherit_from(&mut self, older: Vec<PathBuf>) {
        self.older = older;
    }

    /// Pins a link of an older version's here too; the old pin stays until all are.
    pub(super) fn inherit(&self, name: &str) -> Result<()> {
        let path = self.link(name);
        let old = self.older.iter().map(|dir| dir.join(name));
        match old.into_iter().find(|old| old.exists()) {
            Some(old) if !path.exists() => fs::hard_link(old, path).on("take over", name),
            _ => Ok(()),
        }
    }

    /// Where a link is pinned.
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.dir.join("links").join(name)
    }

    /// Where maps are pinned that no daemon adopts ([`super::near`]).
    pub(super) fn near(&self) -> PathBuf {
        self.dir.join("near")
    }

    /// The names of all pinned links.
    pub(super) fn links(&self) -> Result<BTreeSet<String>> {
        names(&self.dir.join("links"))
    }

    /// Unpins links: what nothing else holds is detached.
    pub(super) fn unpin(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.link(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("unpin", name, error))
            }
            _ => Ok(()),
        }
    }

    /// Unpins every map.
    pub(super) fn remove_maps(&self) -> Result<Vec<PathBuf>> {
        remove_files(&self.dir)
    }

    /// Unpins everything, links first (what nothing else holds is detached), and removes the
    /// directory; what was there.
    pub(super) fn remove(&self) -> Result<Vec<PathBuf>> {
        let (links, near) = (self.dir.join("links"), self.near());
        let mut removed = remove_files(&links)?;
        removed.extend(remove_files(&near)?);
        removed.extend(self.remove_maps()?);
        for dir in [&links, &near, &self.dir] {
            fs::remove_dir(dir).on("remove", dir.display().to_string())?;
        }
        Ok(removed)
    }

    /// Compares pinned maps with the object's definitions. While programs are attached none may
    /// lack: they would go on with one, and ours with another.
    pub(super) fn check(&self, object: &aya_obj::Object, names: &[&'static str]) -> Result<()> {
        let live = live_link(&self.dir)?;
        for name in names {
            let path = self.dir.join(name);
            let shown = || path.display().to_string();
            if !path.exists() {
                let Some(live) = &live else { continue };
                let problem = format!(
                    "it is missing, though programs are attached ({live}) that use it: what it \
                     held can't be had again. {START_OVER}"
                );
                return Err(failed("adopt", shown(), problem));
            }
            let Some(ours) = object.maps.get(*name) else {
                return Err(failed(
                    "find in the object",
                    *name,
                    "the object has no such map",
                ));
            };
            let pinned = MapInfo::from_pin(&path)
                .map_err(|error| format!("it is no map ({error}). {START_OVER}"))
                .on("adopt", shown())?;
            let kind = pinned.map_type().map_or(u32::MAX, |kind| kind as u32);
            for (what, theirs, ours) in [
                ("type", kind, ours.map_type()),
                ("key size", pinned.key_size(), ours.key_size()),
                ("value size", pinned.value_size(), ours.value_size()),
                ("max_entries", pinned.max_entries(), ours.max_entries()),
                ("flags", pinned.map_flags(), ours.map_flags()),
            ] {
                if theirs != ours {
                    let problem = format!(
                        "its {what} is {theirs}, this build's is {ours}: it is not ours, or of a \
                         broken build. {START_OVER}"
                    );
                    return Err(failed("adopt", shown(), problem));
                }
            }
        }
        Ok(())
    }
}

/// What is left to do when pins are not what they should be.
pub(super) const START_OVER: &str = "Programs that are attached go on enforcing until you run: totoro-node \
                          uninstall; then start it anew";

fn remove_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for name in names(dir)? {
        let path = dir.join(name);
        // Ours is only what is pinned.
        if path.is_dir() {
            continue;
        }
        fs::remove_file(&path).on("unpin", path.display().to_string())?;
        removed.push(path);
    }
    Ok(removed)
}

/// A link in a version's directory that is attached to something, by name.
pub(super) fn live_link(dir: &Path) -> Result<Option<String>> {
    let links = dir.join("links");
    if !links.is_dir() {
        return Ok(None);
    }
    Ok(names(&links)?.into_iter().find(|name| {
        sys::get(&links.join(name))
            .and_then(sys::link_info)
            .is_ok_and(|info| info.target() != 0)
    }))
}

/// Whether a directory is one, and this user's: who owns it could put other maps in.
fn ours(dir: &Path) -> Result<()> {
    let shown = dir.display().to_string();
    let about = fs::symlink_metadata(dir).on("look at", shown.clone())?;
    let problem = if !about.is_dir() {
        "it is no directory (a symbolic link is not followed); remove it".to_owned()
    } else if about.uid() != nix::unistd::geteuid().as_raw() {
        format!(
            "it belongs to user {}, who could change what is pinned there; remove it: rm -r {shown}",
            about.uid()
        )
    } else {
        return Ok(());
    };
    Err(failed("trust", shown, problem))
}

/// Whether anything of this build's ABI is pinned. A start that was refused leaves an empty directory.
pub(super) fn is_loaded(root: &Path) -> bool {
    map_dir(root).join("CONFIG").exists()
}

/// The ABIs whose programs are pinned there.
pub(super) fn loaded(root: &Path) -> impl Iterator<Item = u32> {
    let all = super::migrate::versions(root)
        .unwrap_or_default()
        .into_iter();
    all.filter(|(_, dir)| dir.join("CONFIG").exists())
        .map(|(version, _)| version)
}

/// That nothing of this build's ABI is pinned, and what to do.
pub(super) fn not_loaded(root: &Path, otherwise: &str) -> String {
    let others: Vec<String> = loaded(root).map(|version| version.to_string()).collect();
    if others.is_empty() {
        return format!("no programs are loaded there; {otherwise}");
    }
    format!(
        "what is loaded there has ABI {}, this build's is {}: ask the build that loaded it, or \
         restart the daemon, which takes over from versions that it knows",
        others.join(" and "),
        totoro_ebpf::abi::VERSION
    )
}

/// The names in a directory.
pub(super) fn names(dir: &Path) -> Result<BTreeSet<String>> {
    let shown = || dir.display().to_string();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).on("list", shown())? {
        let name = entry.on("list", shown())?.file_name();
        names.insert(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Refuses where a link pinned as ours runs somebody else's program: to replace it would be to
/// switch off what is not ours. Only who may list programs can tell (CAP_SYS_ADMIN), so the daemon
/// calls it before it gives that up; without it nothing is found.
///
/// # Errors
/// With the pin, whose program it is, and what to do.
pub fn refuse_foreign(root: &Path) -> Result<()> {
    if !root.is_dir() {
        return Ok(());
    }
    let programs: BTreeMap<u32, String> = aya::programs::loaded_programs()
        .filter_map(|program| program.ok())
        .map(|program| {
            let name = program.name_as_str().unwrap_or_default().to_owned();
            (program.id(), name)
        })
        .collect();
    for (_, dir) in super::migrate::versions(root)? {
        let links = dir.join("links");
        for name in names(&links).unwrap_or_default() {
            let path = links.join(&name);
            let Ok(link) = sys::get(&path).and_then(sys::link_info) else {
                continue;
            };
            match programs.get(&link.program) {
                Some(theirs) if !theirs.starts_with(neighbours::OURS) => {
                    let shown = path.display();
                    let problem = format!(
                        "it runs {theirs:?} (bpftool prog show id {}), which is not Totoro's; \
                         if nobody needs that, remove the pin: rm {shown}; then start again",
                        link.program
                    );
                    return Err(failed("adopt", shown.to_string(), problem));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The name of an interface's pin: a BPF file system takes no dot, which VLANs have (eth0.100).
pub(super) fn pin_name(kind: &str, interface: &str) -> String {
    format!(
        "{kind}-{}",
        interface.replace('%', "%25").replace('.', "%2e")
    )
}

/// Whether a directory is (or would be made) on a BPF file system.
#[must_use]
pub fn is_on_bpffs(dir: &Path) -> bool {
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(dir);
    nix::sys::statfs::statfs(there)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::pin_name;

    #[test]
    fn every_interface_has_a_pin_of_its_own() {
        assert_eq!(pin_name("tc-in", "eth0"), "tc-in-eth0");
        assert_eq!(pin_name("tc-in", "eth0.100"), "tc-in-eth0%2e100");
        assert_eq!(pin_name("tc-in", "eth0%2e100"), "tc-in-eth0%252e100");
    }
}
