//! Children of the lab: started in their place, logged to files, ended by their pid.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{signals, sys};

/// How often a log or a child is looked at.
const POLL: Duration = Duration::from_millis(2);
/// The longest run of a command.
const RUN: Duration = Duration::from_secs(30);

/// A running child. Dropping it kills it, unless the lab was left running.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    left: Arc<AtomicBool>,
}

impl Process {
    pub(super) fn start(
        place: sys::Place,
        name: &str,
        dir: &Path,
        mut command: Command,
        left: Arc<AtomicBool>,
    ) -> Result<Process> {
        let log = dir.join(format!("{name}.log"));
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("create {}", log.display()))?;
        command
            .stderr(out.try_clone().context("clone the log")?)
            .stdout(out);
        place.apply(&mut command);
        let child = signals::making(|| command.spawn().with_context(|| format!("start {name}")))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
            left,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long its log is: a mark for [`Process::wait_after`].
    #[must_use]
    pub fn mark(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |meta| meta.len())
    }

    /// Everything that it logged after a mark.
    #[must_use]
    pub fn log_after(&self, mark: u64) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log)
            && file.seek(SeekFrom::Start(mark)).is_ok()
        {
            file.read_to_end(&mut bytes).ok();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it logs a line with `pattern` after `mark`; the line.
    ///
    /// # Errors
    /// It does not in time, or ends before: with the log's end.
    pub fn wait_after(&mut self, mark: u64, pattern: &str, timeout: Duration) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            // Whether it lives is asked before the log is read, so that last words are heard.
            let ended = self.child.try_wait().context("wait for a child")?;
            let log = self.log_after(mark);
            if let Some(line) = log.lines().find(|line| line.contains(pattern)) {
                return Ok(line.to_owned());
            }
            let tail = || {
                let lines: Vec<&str> = log.lines().collect();
                lines[lines.len().saturating_sub(8)..].join("\n    ")
            };
            if let Some(status) = ended {
                bail!(
                    "{} ended ({status}) before it logged {pattern:?}:\n    {}",
                    self.name,
                    tail()
                );
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} did not log {pattern:?} within {timeout:?}:\n    {}",
                    self.name,
                    tail()
                );
            }
            std::thread::sleep(POLL);
        }
    }

    /// As [`Process::wait_after`], from the log's beginning.
    ///
    /// # Errors
    /// See there.
    pub fn wait_line(&mut self, pattern: &str, timeout: Duration) -> Result<String> {
        self.wait_after(0, pattern, timeout)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        wait(&mut self.child, timeout)?
            .with_context(|| format!("{} still runs after {timeout:?}", self.name))
    }

    /// Whether it still runs.
    #[must_use]
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it by SIGTERM, after 5 s by SIGKILL.
    pub fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        if !matches!(wait(&mut self.child, Duration::from_secs(5)), Ok(Some(_))) {
            self.kill_now();
        }
    }

    /// Ends it by SIGKILL.
    pub fn kill(mut self) {
        self.kill_now();
    }

    fn kill_now(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            kill(Pid::from_raw(pid), signal).ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.left.load(Ordering::SeqCst) {
            self.kill_now();
        }
    }
}

/// How a command ended, and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Finished {
    /// Standard output, when the command succeeded.
    ///
    /// # Errors
    /// The exit code and what it said.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!(
                "exit code {}: {}{}",
                self.code,
                self.err.trim(),
                self.out.trim()
            );
        }
        Ok(self.out)
    }
}

pub(super) fn run(place: sys::Place, mut command: Command) -> Result<Finished> {
    let program = command.get_program().to_string_lossy().into_owned();
    place.apply(&mut command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child =
        signals::making(|| command.spawn().with_context(|| format!("start {program}")))?;
    // Both pipes are drained while it runs: a full one would stop it.
    let out = child.stdout.take().context("its output")?;
    let err = child.stderr.take().context("its errors")?;
    let read = |mut pipe: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).ok();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let (out, err) = (read(Box::new(out)), read(Box::new(err)));
    let Some(status) = wait(&mut child, RUN)? else {
        child.kill().ok();
        child.wait().ok();
        bail!("{program} did not end within {RUN:?}");
    };
    Ok(Finished {
        code: status.code().unwrap_or(-1),
        out: out.join().unwrap_or_default(),
        err: err.join().unwrap_or_default(),
    })
}

/// Runs a command of the lab's own set-up.
pub(super) fn quick(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn wait(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().context("wait for a child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}
