//! Where it happens: a network namespace, a cgroup, a pin directory and a directory of this run's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Removed when dropped.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) cgroup: PathBuf,
    pub(crate) pins: PathBuf,
    /// The cgroup that we came from.
    home: PathBuf,
}

impl Place {
    /// Moves this process there, with all that it starts from now on.
    pub(crate) fn enter() -> Place {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run as root");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let name = format!("totoro-bench-{}", std::process::id());
        let root = totoro_node::machine::cgroup2_root().expect("cgroup v2 is mounted");
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let (home, cgroup) = (root.join(own.unwrap_or_default()), root.join(&name));
        fs::create_dir(&cgroup).unwrap();
        join(&cgroup);
        // On a disk: what is measured is made durable.
        let target = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(target.parent().unwrap()).unwrap();
        Place {
            dir,
            cgroup,
            pins: Path::new("/sys/fs/bpf").join(name),
            home,
        }
    }
}

fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = totoro_node::kernel::uninstall(&self.pins);
        fs::write(
            self.home.join("cgroup.procs"),
            std::process::id().to_string(),
        )
        .ok();
        fs::remove_dir(&self.cgroup).ok();
    }
}
