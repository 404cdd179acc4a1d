//! Putting a child into a namespace and a cgroup: the lab's only unsafe code.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::Netns;

/// Where a child is to run.
#[derive(Debug)]
pub(super) struct Place {
    netns: File,
    procs: File,
    dies_with_parent: bool,
}

impl Place {
    /// Opens everything beforehand: between fork and exec only plain system calls are allowed.
    pub(super) fn open(netns: &Netns, cgroup: &Path, dies_with_parent: bool) -> Result<Place> {
        let path = cgroup.join("cgroup.procs");
        let procs = OpenOptions::new()
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        Ok(Place {
            netns: netns.file()?,
            procs,
            dies_with_parent,
        })
    }

    /// Has the command's child go there before it becomes the program.
    pub(super) fn apply(self, command: &mut Command) {
        // Its own process group: a Ctrl-C at the terminal reaches the lab, which ends its
        // children in order.
        command.process_group(0);
        let enter = move || -> io::Result<()> {
            setns(&self.netns, CloneFlags::CLONE_NEWNET)?;
            // "0" is whoever writes it.
            (&self.procs).write_all(b"0")?;
            if self.dies_with_parent {
                set_pdeathsig(Signal::SIGKILL)?;
            }
            // The lab blocks the signals that it waits for; children must not inherit that.
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            Ok(())
        };
        // SAFETY: the closure runs after fork in the child of a process with threads, so it may
        // only do what is async-signal-safe: setns, write, prctl and sigprocmask are system calls
        // without locks or allocation, and errors are plain numbers.
        unsafe {
            command.pre_exec(enter);
        }
    }
}
