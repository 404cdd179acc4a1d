//! Where it happens: a network namespace, a cgroup, a pin directory and a directory of this run's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use totoro_tests::lab;

/// Removed when dropped, and when a signal ends the process.
#[derive(Clone)]
pub(crate) struct Paths {
    pub(crate) dir: PathBuf,
    /// In memory: what is another machine's in life must not keep this one's disk busy.
    pub(crate) elsewhere: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) pins: PathBuf,
    /// The cgroup that we came from.
    home: PathBuf,
}

pub(crate) struct Place(pub(crate) Paths);

impl Place {
    /// Moves this process there, with all that it starts from now on. Call it before there is a
    /// second thread.
    pub(crate) fn enter() -> Place {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run as root");
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        lab::watch_signals().unwrap();
        // A session is a connection.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let name = format!("totoro-{}-bench-{}", lab::run_tag(), std::process::id());
        let root = totoro_node::machine::cgroup2_root().expect("cgroup v2 is mounted");
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        // On a disk: what is measured is made durable.
        let target = std::env::current_exe().unwrap();
        let paths = Paths {
            dir: target.with_file_name(&name),
            elsewhere: Path::new("/dev/shm").join(&name),
            cgroup: root.join(&name),
            pins: Path::new("/sys/fs/bpf").join(&name),
            home: root.join(own.unwrap_or_default()),
        };
        let (end, made) = (paths.clone(), paths.clone());
        let make = || {
            fs::create_dir(&made.dir)?;
            fs::create_dir(&made.elsewhere)?;
            fs::create_dir(&made.cgroup)?;
            join(&made.cgroup);
            Ok(())
        };
        lab::made(move || end.remove(), make).unwrap();
        Place(paths)
    }
}

impl Paths {
    fn remove(&self) {
        join(&self.home);
        // What we started, and what that started: nobody else is in there.
        fs::write(self.cgroup.join("cgroup.kill"), "1").ok();
        // Busy until the last of them is gone, and pins are a live daemon's.
        for _ in 0..1000 {
            // Those that a part has made in it go first.
            for inner in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
                fs::remove_dir(inner.path()).ok();
            }
            if fs::remove_dir(&self.cgroup).is_ok() || !self.cgroup.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        totoro_node::kernel::uninstall(&self.pins).ok();
        fs::remove_dir_all(&self.dir).ok();
        fs::remove_dir_all(&self.elsewhere).ok();
    }
}

fn join(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).ok();
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.remove();
    }
}
