//! Named network namespaces.
//!
//! Entered by `setns`, never by `ip netns exec`: that remounts /sys, and hides cgroup2 and bpffs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

/// A namespace that we made. It is deleted by name with the lab.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub(super) fn add(name: &str) -> Result<Netns> {
        super::signals::making(|| {
            super::process::quick(Command::new("ip").args(["netns", "add", name]))
        })?;
        Ok(Netns {
            name: name.to_owned(),
        })
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it.
    ///
    /// # Errors
    /// What ip says.
    pub fn ip(&self, args: &[&str]) -> Result<()> {
        super::process::quick(Command::new("ip").args(["-netns", &self.name]).args(args))
    }

    /// Runs `work` on a thread in this namespace. Sockets made there stay in it wherever they are
    /// used later. Don't start lasting processes there: they end with the thread.
    ///
    /// # Errors
    /// The namespace can't be entered, or `work` fails or panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.file()?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
                work()
            });
            inside.join().map_err(|panic| {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                anyhow!("panicked: {}", text.unwrap_or_default())
            })?
        })
    }

    pub(super) fn file(&self) -> Result<File> {
        let path = path(&self.name);
        File::open(&path).with_context(|| format!("open {}", path.display()))
    }
}

pub(super) fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}
