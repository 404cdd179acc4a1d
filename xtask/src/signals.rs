//! Running a child so that Ctrl-C and friends end it in order, and what it left can be removed.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, killpg, sigaction};
use nix::unistd::Pid;

/// Longer than a lab ever took to go down.
const PATIENCE: Duration = Duration::from_secs(20);

/// The signal that came; 0 = none.
static CAME: AtomicI32 = AtomicI32::new(0);

/// How a child ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself.
    Itself(ExitStatus),
    /// Because we got this signal, and passed it on.
    Signal(Signal),
}

/// Runs a child to its end. It has a process group of its own, so that a signal reaches it and its
/// children through us, once, wherever it came from; a group that does not end is killed.
///
/// # Errors
/// It can't be started, or waited for.
pub(crate) fn supervise(command: &mut Command) -> Result<Ended> {
    let program = command.get_program().to_string_lossy().into_owned();
    let _handlers = Handlers::set()?;
    let mut child = command
        // It could not read the terminal from a group of its own.
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let group = Pid::from_raw(i32::try_from(child.id()).context("a process id")?);
    loop {
        if let Some(status) = child.try_wait().context("wait for a child")? {
            return Ok(Ended::Itself(status));
        }
        if let Ok(signal) = Signal::try_from(CAME.load(Ordering::SeqCst)) {
            killpg(group, signal).ok();
            let deadline = Instant::now() + PATIENCE;
            // The group, not the child alone: cargo ends before the tests that it runs.
            loop {
                child.try_wait().ok();
                match killpg(group, None) {
                    Err(Errno::ESRCH) => return Ok(Ended::Signal(signal)),
                    _ if Instant::now() > deadline => {
                        killpg(group, Signal::SIGKILL).ok();
                        child.wait().ok();
                        return Ok(Ended::Signal(signal));
                    }
                    _ => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Notes SIGINT, SIGTERM and SIGHUP instead of ending by them, for as long as it lives.
struct Handlers(Vec<(Signal, SigAction)>);

extern "C" fn note(signal: i32) {
    CAME.store(signal, Ordering::SeqCst);
}

impl Handlers {
    fn set() -> Result<Handlers> {
        let handler = SigHandler::Handler(note);
        let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
        let mut before = Vec::new();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the handler stores to an atomic, which a signal's handler may do.
            let old = unsafe { sigaction(signal, &action) };
            before.push((signal, old.with_context(|| format!("handle {signal}"))?));
        }
        Ok(Handlers(before))
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        for (signal, action) in &self.0 {
            // SAFETY: what was in force before, of which the same held.
            unsafe { sigaction(*signal, action) }.ok();
        }
    }
}
