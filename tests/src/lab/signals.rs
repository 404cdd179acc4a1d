//! Ctrl-C and friends: labs are taken down, then the process ends.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

use super::{Tools, down};

/// Labs to take down. A lock, because the signal's thread and the story's both touch it.
static LABS: Mutex<Vec<(Tools, String)>> = Mutex::new(Vec::new());

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
            eprintln!("\n{signal}: taking the lab down");
            let labs = std::mem::take(&mut *LABS.lock().unwrap_or_else(PoisonError::into_inner));
            for (tools, tag) in labs {
                down(&tools, &tag);
            }
            std::process::exit(128 + signal as i32);
        })
        .context("start the signals' thread")?;
    Ok(())
}

pub(super) fn on_signal(tools: &Tools, tag: &str) {
    let mut labs = LABS.lock().unwrap_or_else(PoisonError::into_inner);
    labs.push((tools.clone(), tag.to_owned()));
}

pub(super) fn forget(tag: &str) {
    LABS.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|(_, other)| other != tag);
}
