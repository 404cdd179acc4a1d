//! Which processor a thread runs on.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Has this thread run on one processor alone from now on, with those that it starts.
///
/// # Errors
/// There is no such processor.
pub fn keep_to(cpu: usize) -> Result<()> {
    keep(Pid::from_raw(0), cpu)
}

/// The same of any thread; 0 = this one.
pub(super) fn keep(thread: Pid, cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).context("the processor's number")?;
    sched_setaffinity(thread, &cpus).with_context(|| format!("keep a thread to processor {cpu}"))
}
