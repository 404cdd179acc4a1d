//! What a run ran on.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What a run ran on. No name and no address: reports are published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's model, as the kernel names it.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The kernel's release and architecture.
    pub kernel: String,
    /// The commit that was measured; `+` behind it where the tree has changes.
    pub commit: String,
    /// The compiler.
    pub rustc: String,
    /// Whether what was measured was built with optimisation.
    pub release: bool,
    /// Processes that wanted to run when the run began, over the last minute. Much more than what the
    /// bench itself takes: others were at work.
    pub load: f64,
}

impl Machine {
    /// Looks at this one. What can't be found is `unknown`.
    #[must_use]
    pub fn look() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let cpu = info.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == "model name").then(|| value.trim().to_owned())
        });
        let memory = read("/proc/meminfo").lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        });
        let load = read("/proc/loadavg");
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        let kernel = nix::sys::utsname::uname().map(|name| {
            let [release, machine] = [name.release(), name.machine()].map(|s| s.to_string_lossy());
            format!("{release} {machine}")
        });
        let unknown = || "unknown".to_owned();
        Machine {
            cpu: cpu.unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory.unwrap_or(0_u64) / 1024,
            kernel: kernel.unwrap_or_else(|_| unknown()),
            commit: commit().unwrap_or_else(unknown),
            rustc: env!("TOTORO_RUSTC").to_owned(),
            release: !cfg!(debug_assertions),
            load: load.unwrap_or(0.0),
        }
    }
}

/// The workspace's commit.
fn commit() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let git = |args: &[&str]| {
        // Under sudo the checkout is somebody else's, which git would not read.
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*"]).args(args);
        let said = git.current_dir(root).output().ok()?;
        let text = String::from_utf8(said.stdout).ok()?;
        said.status.success().then(|| text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() {
        commit
    } else {
        commit + "+"
    })
}
