//! The tunnels that run, of all this user's programs: each shows its state in a file of the runtime
//! directory, and holds a lock beside it for as long as it lives.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::private;
use crate::tunnel::Snapshot;

/// No more files than this are looked at.
const MAX_LISTED: usize = 1024;

/// A tunnel as its program shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The program's process id.
    pub pid: u32,
    /// How it stands.
    #[serde(flatten)]
    pub tunnel: Snapshot,
}

/// Shows one tunnel until it is dropped.
#[derive(Debug)]
pub struct Shown {
    base: PathBuf,
    task: JoinHandle<()>,
    /// Held while the file is written: nothing is written once it says that this is over.
    over: Arc<Mutex<bool>>,
    /// Locked: whoever can lock it knows that we are gone.
    _lock: File,
}

/// Shows a tunnel's state from here on.
///
/// # Errors
/// There is no place for it.
pub fn show(state: watch::Receiver<Snapshot>) -> Result<Shown, Error> {
    show_in(&private::runtime_dir()?, state)
}

fn show_in(dir: &Path, mut state: watch::Receiver<Snapshot>) -> Result<Shown, Error> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let base = dir.join(format!("tunnel-{pid}-{number}"));
    let path = base.with_extension("lock");
    let lock = File::create(&path).map_err(|error| Error::file(&path, error))?;
    lock.try_lock().map_err(|error| Error::file(&path, error))?;
    let json = base.with_extension("json");
    let over = Arc::new(Mutex::new(false));
    let ended = Arc::clone(&over);
    let task = tokio::spawn(async move {
        loop {
            let tunnel = state.borrow_and_update().clone();
            if let Ok(text) = serde_json::to_string(&Entry { pid, tunnel }) {
                let over = ended.lock().unwrap_or_else(PoisonError::into_inner);
                if *over {
                    return;
                }
                // A full disk is no reason to end a tunnel.
                private::write(&json, &text).ok();
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    });
    Ok(Shown {
        base,
        task,
        over,
        _lock: lock,
    })
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.task.abort();
        // Aborted, it may still be in the middle of a write.
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        *over = true;
        forget(&self.base);
    }
}

/// How long ago a time in Unix seconds was, seconds.
#[must_use]
pub fn age(since: u64) -> u64 {
    crate::tunnel::now().saturating_sub(since)
}

fn forget(base: &Path) {
    fs::remove_file(base.with_extension("json")).ok();
    fs::remove_file(base.with_extension("lock")).ok();
}

/// The tunnels that run now, in the order of their programs. What dead ones left is removed.
///
/// # Errors
/// There is no runtime directory.
pub fn list() -> Result<Vec<Entry>, Error> {
    Ok(list_in(&private::runtime_dir()?))
}

fn list_in(dir: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    for found in fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .take(MAX_LISTED)
    {
        let path = found.path();
        if path.extension().is_none_or(|kind| kind != "lock") {
            continue;
        }
        let base = path.with_extension("");
        match File::open(&path) {
            Ok(file) if file.try_lock().is_ok() => forget(&base),
            Ok(_) => {
                let text = private::read(&base.with_extension("json"));
                let entry = text
                    .ok()
                    .and_then(|(_, text)| serde_json::from_str(&text).ok());
                entries.extend(entry);
            }
            Err(_) => {}
        }
    }
    entries.sort_by_key(|entry: &Entry| entry.pid);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::Phase;
    use crate::tunnel::tests::snapshot;

    #[tokio::test]
    async fn shown_while_it_lives_and_forgotten_after() {
        let dir = tempfile::tempdir().unwrap();
        let state = watch::Sender::new(snapshot());
        let shown = show_in(dir.path(), state.subscribe()).unwrap();
        let seen = async |phase| loop {
            if list_in(dir.path())
                .iter()
                .any(|entry| entry.tunnel.phase == phase)
            {
                return;
            }
            tokio::task::yield_now().await;
        };
        seen(Phase::Connecting).await;
        state.send_modify(|state| state.phase = Phase::Running);
        seen(Phase::Running).await;
        let left = dir.path().join("tunnel-1-0");
        fs::write(left.with_extension("lock"), "").unwrap();
        fs::write(left.with_extension("json"), "{}").unwrap();
        assert_eq!(list_in(dir.path()).len(), 1);
        assert!(!left.with_extension("json").exists(), "of a dead program");
        drop(shown);
        assert!(list_in(dir.path()).is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// A write that had begun came after the removal.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_written_after_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let state = watch::Sender::new(snapshot());
        for round in 0..1000 {
            let shown = show_in(dir.path(), state.subscribe()).unwrap();
            state.send_modify(|state| state.since = round);
            // Another moment of its write each time.
            let until = std::time::Instant::now() + std::time::Duration::from_micros(round % 200);
            while std::time::Instant::now() < until {
                std::hint::spin_loop();
            }
            drop(shown);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
