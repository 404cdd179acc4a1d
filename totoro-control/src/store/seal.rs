//! What a closed store's files were, so that the next start knows whether they still are: sled
//! repairs as it opens, and what it takes for a torn end it silently throws away.
//!
//! The seal is written when the store is closed and removed, durably, before it is opened. A store
//! without one was not closed: killed, or cut off.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::migrate::SCHEMA;
use super::sync::create_whole;
use super::wal;

/// The seal's file.
pub(super) const SEAL: &str = "sealed";
/// How long sled may hold its lock after its handles are gone: its own threads end later.
const LOCK_TIME: Duration = Duration::from_secs(5);
const LOCK_REST: Duration = Duration::from_millis(2);

/// What is written in a seal.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    pub(super) schema: u32,
    pub(super) revision: u64,
    files: Vec<Sealed>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    name: String,
    bytes: u64,
    blake3: String,
}

impl Seal {
    /// Reads the seal; `None` where there is none.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(dir.join(SEAL)) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first file that is not as it was, with what is wrong.
    pub(super) fn broken(&self, dir: &Path) -> io::Result<Option<String>> {
        let found = look(dir)?;
        for sealed in &self.files {
            let name = &sealed.name;
            match found.iter().find(|file| file.name == *name) {
                None => return Ok(Some(format!("{name} is missing"))),
                Some(file) if file.bytes != sealed.bytes => {
                    let (is, was) = (file.bytes, sealed.bytes);
                    return Ok(Some(format!("{name} has {is} bytes instead of {was}")));
                }
                Some(file) if file != sealed => {
                    return Ok(Some(format!("{name} holds other bytes")));
                }
                Some(_) => {}
            }
        }
        let known = |name: &str| self.files.iter().any(|sealed| sealed.name == name);
        let more = found.iter().find(|file| !known(&file.name));
        Ok(more.map(|file| format!("{} is new", file.name)))
    }

    /// Removes it durably: from now on the files may change.
    pub(super) fn remove(dir: &Path) -> io::Result<()> {
        std::fs::remove_file(dir.join(SEAL))?;
        File::open(dir)?.sync_all()
    }
}

/// Whether it is what sled 0.34.7 calls a snapshot of its page table while it writes it.
fn is_half(name: &str) -> bool {
    name.starts_with("snap.") && name.ends_with(".generating")
}

/// sled's files in the directory, and the log's: a store that was closed has none of those. Not what
/// sled was writing when it was killed: what that was to replace is still there.
pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let ours = |name: &str| {
            matches!(name, "conf" | "db")
                || name.starts_with("snap.")
                || name.starts_with(wal::NAME)
        };
        if name.is_some_and(|name| ours(name) && !is_half(name)) && path.is_file() {
            found.push(path);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes the snapshots that sled was writing when it was killed. It leaves out such files by another
/// name than it gives them, takes one for the newest snapshot, and where that is not whole, the store for
/// corrupted. Whoever holds the store may be writing one: hence the lock.
pub(super) fn remove_halves(dir: &Path, _lock: &File) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if is_half(&name) {
            tracing::info!(%name, "removed what was being written when the store was killed");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn look(dir: &Path) -> io::Result<Vec<Sealed>> {
    let one = |path: PathBuf| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&path)?)?;
        Ok(Sealed {
            name,
            bytes: hasher.count(),
            blake3: hasher.finalize().to_hex().to_string(),
        })
    };
    files(dir)?.into_iter().map(one).collect()
}

/// The log's file, locked as sled locks it. Waits for those who are about to let go.
pub(super) fn lock(dir: &Path, patience: Duration) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(dir.join("db"))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if began.elapsed() < patience => {
                std::thread::sleep(LOCK_REST);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until nobody has the store open, once this process's handles are dropped.
pub(super) fn wait_until_free(dir: &Path) -> io::Result<()> {
    lock(dir, LOCK_TIME).map(drop)
}

/// Seals the store when it is dropped: the last field of what holds it open.
pub(super) struct SealOnDrop {
    pub(super) dir: PathBuf,
    /// The newest durable revision.
    pub(super) revision: Arc<AtomicU64>,
}

impl Drop for SealOnDrop {
    fn drop(&mut self) {
        // Without a seal the next start looks at everything, which is slow and no harm.
        if let Err(error) = self.seal() {
            tracing::warn!(%error, "the store was closed, but not sealed");
        }
    }
}

impl SealOnDrop {
    fn seal(&self) -> io::Result<()> {
        let _lock = lock(&self.dir, LOCK_TIME)?;
        let seal = Seal {
            schema: SCHEMA,
            revision: self.revision.load(Ordering::Acquire),
            files: look(&self.dir)?,
        };
        let text = serde_json::to_vec_pretty(&seal).map_err(io::Error::other)?;
        create_whole(&self.dir.join(SEAL), 0o666, &text)
    }
}
