//! frps and frpc as children.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{PATIENCE, binary};

/// A child with its log, in a process group of its own; killed when dropped.
pub(super) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts a tool on a file's text. It trusts the certificates in `trust`, as a program does that
    /// uses the system's.
    pub(super) fn start(dir: &Path, tool: &str, name: &str, config: &str, trust: &Path) -> Self {
        let file = dir.join(format!("{name}.toml"));
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(tools().join(tool));
        command.arg("-c").arg(file);
        Self::run(dir, name, command, trust)
    }

    /// Starts a command.
    pub(super) fn run(dir: &Path, name: &str, mut command: Command, trust: &Path) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = std::fs::File::create(&log).unwrap();
        let child = command
            .env("no_proxy", "*")
            .env("SSL_CERT_FILE", trust)
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        Program { child, log }
    }

    pub(super) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    pub(super) fn wait_for(&self, text: &str) {
        self.wait_for_times(text, 1);
    }

    /// Waits until it has said this so many times.
    #[track_caller]
    pub(super) fn wait_for_times(&self, text: &str, times: usize) {
        let began = Instant::now();
        while self.said().matches(text).count() < times {
            assert!(
                began.elapsed() < PATIENCE,
                "no {text:?} ({times} times) in\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the refusal in its log; the whole of it, up to the end of the line.
    #[track_caller]
    pub(super) fn refusal(&self, reason: &str) -> String {
        let begin = format!("totoro[{reason}]: ");
        self.wait_for(&begin);
        let said = self.said();
        let line = said.split(&begin).nth(1).unwrap().lines().next().unwrap();
        assert!(line.contains("; "), "no next step in {line}");
        line.to_owned()
    }

    /// Signals all of its group.
    pub(super) fn signal(&self, signal: Signal) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        killpg(group, signal).unwrap();
    }

    /// SIGKILL.
    pub(super) fn stop(self) {
        drop(self);
    }

    /// Waits until it has ended by itself, or by a signal.
    #[track_caller]
    pub(super) fn ended(&mut self) {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "it runs on:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.said());
        }
    }
}

/// `target/tools`, beside the profile's directory.
pub(super) fn tools() -> PathBuf {
    let profile = Path::new(binary()).parent().unwrap();
    profile.parent().unwrap().join("tools")
}

/// Whether one of these tools is not there; says so.
pub(super) fn missing(names: &[&str]) -> bool {
    let lacks = names.iter().any(|tool| !tools().join(tool).exists());
    if lacks {
        let required = std::env::var("TOTORO_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
        assert!(!required, "{names:?} are missing: cargo xtask setup");
        eprintln!("skipped: {names:?} are missing (cargo xtask setup)");
    }
    lacks
}
