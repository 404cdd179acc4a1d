//! The pin directory: whose it is, and whether what lies there is what we take it for. Nothing in
//! it is trusted unchecked: aya opens a pinned map of any shape, and the kernel would then write
//! past our buffers.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use nix::fcntl::{Flock, FlockArg};

use super::{Context, Result, failed, maps};

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

/// Whether a directory is (or would be made) on a BPF file system.
#[must_use]
pub fn is_on_bpffs(dir: &Path) -> bool {
    let there = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(dir);
    nix::sys::statfs::statfs(there)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}
