//! A real file system that is soon full: ext4 in a file, on a loop device.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Runs a test where its mounts are seen by it and its children alone, and are gone with it,
/// whatever ends it. Without root it says so and passes, unless nothing may be missing.
pub(super) fn with_own_mounts<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let run = || {
        let missing = match unshare(CloneFlags::CLONE_NEWNS) {
            Err(error) => Some(format!("no mounts of our own ({error}): be root")),
            Ok(()) => no_loop_devices(),
        };
        if let Some(missing) = missing {
            let required = std::env::var("TOTORO_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
            assert!(!required, "{missing}");
            eprintln!("skipped: {missing}");
            return;
        }
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        // All on this thread: others have other mounts.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test());
    };
    // A panic's message is printed by the thread.
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    assert!(ended.is_ok(), "failed; see above");
}

/// Why a file can't be a disk here.
fn no_loop_devices() -> Option<String> {
    let control = Path::new("/dev/loop-control");
    (!control.exists()).then(|| format!("no loop devices: {} is missing", control.display()))
}

/// The file system, mounted; unmounted when dropped.
pub(super) struct SmallDisk {
    _image: tempfile::NamedTempFile,
    at: PathBuf,
}

impl SmallDisk {
    /// One of so many MiB, on this directory.
    pub(super) fn mount(at: &Path, mib: u64) -> Self {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(mib << 20).unwrap();
        // No blocks kept for root, who fills it here.
        run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0"])
            .arg(image.path()));
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(image.path())
            .arg(at));
        SmallDisk {
            _image: image,
            at: at.to_owned(),
        }
    }

    /// Takes all of its space but so many bytes.
    pub(super) fn fill(&self, but: u64) {
        let mut file = File::create(self.ballast()).unwrap();
        let (mut length, mut step) = (0, 1 << 16);
        while step >= 512 {
            match file.write(&vec![b'#'; step]) {
                Ok(written) => length += written as u64,
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                    step /= 2;
                }
            }
        }
        file.set_len(length.saturating_sub(but)).unwrap();
        file.sync_all().unwrap();
    }

    /// Gives the space back.
    pub(super) fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
        File::open(&self.at).unwrap().sync_all().unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whatever still has files open there keeps them until it ends.
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

fn run(command: &mut Command) {
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {said}");
}
