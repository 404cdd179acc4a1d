//! Ctrl-C and friends: labs are taken down, then the process ends.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, Signal};

use super::{Tools, down};

/// What the signal's thread and everyone else agree on.
struct Ending {
    /// A signal came: nothing may be made any more.
    begun: bool,
    /// Labs to take down.
    labs: Vec<(Tools, String)>,
    /// What else is to be done.
    ends: Vec<Box<dyn FnOnce() + Send>>,
}

/// One lock for both: what is being made when the signal comes is finished first and then found by
/// its name; what comes later is refused. Without it the story's thread would go on adding to a lab
/// that is being removed.
static ENDING: Mutex<Ending> = Mutex::new(Ending {
    begun: false,
    labs: Vec::new(),
    ends: Vec::new(),
});

fn ending() -> MutexGuard<'static, Ending> {
    ENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handles SIGINT, SIGTERM and SIGHUP from here on. Call it before any other thread starts.
///
/// # Errors
/// The signals can't be blocked.
pub fn watch() -> Result<()> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    // Blocked in every thread, waited for in one: so what follows may lock and allocate.
    set.thread_block().context("block signals")?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let Ok(signal) = set.wait() else { return };
            let (labs, ends) = {
                let mut ending = ending();
                ending.begun = true;
                let ends = std::mem::take(&mut ending.ends);
                (std::mem::take(&mut ending.labs), ends)
            };
            for end in ends {
                end();
            }
            // Said afterwards, and only if someone listens: the terminal may be what went away.
            let mut stderr = std::io::stderr();
            for (tools, tag) in labs {
                let _ = match down(&tools, &tag) {
                    Ok(()) => writeln!(stderr, "\n{signal}: lab {tag} is down"),
                    Err(error) => writeln!(stderr, "\n{signal}: {error:#}"),
                };
            }
            std::process::exit(128 + signal as i32);
        })
        .context("start the signals' thread")?;
    Ok(())
}

/// Has something done when a signal comes, for what is no lab: it removes what `make` makes, of which
/// it may find a part.
///
/// # Errors
/// A signal came already, or `make` failed.
pub fn made<T>(end: impl FnOnce() + Send + 'static, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut ending = ending();
    ensure!(!ending.begun, "a signal came, and ends the process");
    ending.ends.push(Box::new(end));
    make()
}

/// Makes something that a lab's end must find: a namespace, a cgroup, a process.
pub(super) fn making<T>(make: impl FnOnce() -> Result<T>) -> Result<T> {
    let ending = ending();
    ensure!(!ending.begun, "a signal came, and ends the lab");
    make()
}

/// Where a signal is ending the process, waits for that, so that the exit code is the signal's.
pub fn settle() {
    while ending().begun {
        std::thread::park();
    }
}

pub(super) fn on_signal(tools: &Tools, tag: &str) -> Result<()> {
    making(|| Ok(()))?;
    ending().labs.push((tools.clone(), tag.to_owned()));
    Ok(())
}

pub(super) fn forget(tag: &str) {
    ending().labs.retain(|(_, other)| other != tag);
}
