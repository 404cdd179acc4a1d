//! The pin directory: whose it is, and whether what lies there is what we take it for. Nothing in
//! it is trusted unchecked: aya opens a pinned map of any shape, and the kernel would then write
//! past our buffers.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use nix::fcntl::{Flock, FlockArg};

use super::{Context, Result, failed, maps, sys};

/// `<root>/v<ABI>`: maps; `<root>/v<ABI>/links`: links.
#[derive(Debug)]
pub(super) struct PinDir {
    pub(super) dir: PathBuf,
    /// Held while the daemon lives, so that a second one refuses.
    _lock: Flock<File>,
}

/// Where the maps of this ABI are.
pub(super) fn map_dir(root: &Path) -> PathBuf {
    root.join(format!("v{}", totoro_ebpf::abi::VERSION))
}

impl PinDir {
    /// Makes (mode 0700) and locks the directory.
    pub(super) fn lock(root: &Path) -> Result<PinDir> {
        let dir = map_dir(root);
        let shown = || dir.display().to_string();
        if !is_on_bpffs(root) {
            let problem = "it is not on a BPF file system; run: mount -t bpf bpf /sys/fs/bpf";
            return Err(failed("pin under", root.display().to_string(), problem));
        }
        for dir in [root, &dir, &dir.join("links")] {
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
        Ok(PinDir { dir, _lock: lock })
    }

    /// Where a link is pinned.
    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.dir.join("links").join(name)
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

    /// Compares every pinned map with the object's definition of it.
    pub(super) fn check(&self, object: &aya_obj::Object) -> Result<()> {
        for name in maps::PINNED {
            let path = self.dir.join(name);
            if !path.exists() {
                continue;
            }
            let Some(ours) = object.maps.get(*name) else {
                return Err(failed(
                    "find in the object",
                    *name,
                    "the object has no such map",
                ));
            };
            let pinned = MapInfo::from_pin(&path).on("open the pinned map", *name)?;
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
                         broken build; run: totoro-node uninstall"
                    );
                    return Err(failed("adopt", path.display().to_string(), problem));
                }
            }
        }
        Ok(())
    }
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

/// The names in a directory.
fn names(dir: &Path) -> Result<BTreeSet<String>> {
    let shown = || dir.display().to_string();
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).on("list", shown())? {
        let name = entry.on("list", shown())?.file_name();
        names.insert(name.to_string_lossy().into_owned());
    }
    Ok(names)
}

/// Refuses to start beside the programs of another ABI version: both would count and judge.
pub(super) fn refuse_other_abis(root: &Path) -> Result<()> {
    let ours = map_dir(root);
    for name in names(root)? {
        let dir = root.join(&name);
        let is_abi = name
            .strip_prefix('v')
            .is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_abi || dir == ours || !dir.join("links").is_dir() {
            continue;
        }
        let links = names(&dir.join("links"))?;
        let live = links.iter().find(|link| {
            sys::get(&dir.join("links").join(link))
                .and_then(sys::link_info)
                .is_ok_and(|info| info.target() != 0)
        });
        if let Some(live) = live {
            let problem = format!(
                "programs of another version of Totoro are attached ({live}), and would judge \
                 everything a second time; run its totoro-node uninstall, or: rm -r {}",
                dir.display()
            );
            return Err(failed("start beside", dir.display().to_string(), problem));
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
