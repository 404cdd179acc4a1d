//! Writing a layer to sled, beside the writer. Once sled has it durably, the log that made it
//! durable until then is dropped.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::sum::{Sum, Target};
use super::sync::LogFile;
use super::view::{Layer, View};
use super::writer::{HEAD_KEY, Head, data_key, end, join};
use super::{StoreError, wal};

/// What is written between two flushes, bytes: sled's memory grows with what is not flushed.
const PART: usize = 512 << 10;

/// Where layers go.
pub(super) struct Checkpoints {
    dir: PathBuf,
    tree: ::sled::Tree,
    view: Arc<View>,
    /// Of what sled holds.
    sum: Arc<Mutex<Sum>>,
    /// The one that is being written.
    running: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn new(dir: PathBuf, tree: ::sled::Tree, view: Arc<View>, sum: Sum) -> Self {
        Checkpoints {
            dir,
            tree,
            view,
            sum: Arc::new(Mutex::new(sum)),
            running: None,
        }
    }

    /// Begins to write the active layer, which ends at `head` and is in the log's files up to
    /// number `log`. The one before it is waited for. A failure ends the process.
    pub(super) fn begin(&mut self, head: Head, log: u64) {
        self.wait();
        let layer = self.view.freeze();
        let (dir, tree, view) = (self.dir.clone(), self.tree.clone(), Arc::clone(&self.view));
        let sum = Arc::clone(&self.sum);
        let work = move || {
            let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
            let written = foretell(&dir, &tree, &layer, head, *sum).and_then(|target| {
                write(&tree, &layer, head)?;
                *sum = target;
                LogFile::open(&dir)?.sync()
            });
            drop(layer);
            if let Err(error) = written.and_then(|()| {
                view.thaw();
                wal::remove(&dir, log)
            }) {
                end(&error, std::iter::empty());
            }
        };
        let thread = std::thread::Builder::new().name("store-checkpoint".to_owned());
        match thread.spawn(work) {
            Ok(running) => self.running = Some(running),
            Err(source) => end(
                &StoreError::Io {
                    doing: "start a thread for",
                    path: self.dir.clone(),
                    source,
                },
                std::iter::empty(),
            ),
        }
    }

    /// Waits until nothing is being written.
    pub(super) fn wait(&mut self) {
        if let Some(running) = self.running.take()
            && running.join().is_err()
        {
            // The panic's hook has said where.
            tracing::error!("writing a checkpoint panicked; ending");
            std::process::exit(crate::EXIT_STORE_FAILED);
        }
    }
}

/// Makes the sum durable that sled, of which this is the sum, has at the end of a checkpoint. A kill in
/// between leaves a part of it there, of which nothing else could tell whether all is well.
fn foretell(
    dir: &Path,
    tree: &::sled::Tree,
    layer: &Layer,
    head: Head,
    sum: Sum,
) -> Result<Sum, StoreError> {
    let target = Target {
        revision: head.revision,
        sum: sum.with(layer, tree).map_err(StoreError::Engine)?,
    };
    target.write(dir).map_err(|source| StoreError::Io {
        doing: "write the sum of",
        path: dir.to_owned(),
        source,
    })?;
    Ok(target.sum)
}

/// Writes a layer to sled and, last, that sled stands at `head` then. It is not durable yet.
///
/// A kill in between leaves a part of it there: the log still has all of it, and is read over it.
pub(super) fn write(tree: &::sled::Tree, layer: &Layer, head: Head) -> Result<(), StoreError> {
    let mut waiting = 0;
    for (key, slot) in layer.iter() {
        let key = data_key(key);
        waiting += key.len();
        let written = match &slot.value {
            Some(value) => {
                waiting += value.len();
                tree.insert(&key[..], join(slot.revision, value))
            }
            None => tree.remove(&key[..]),
        };
        written.map_err(StoreError::Engine)?;
        if waiting >= PART {
            waiting = 0;
            tree.flush().map_err(StoreError::Engine)?;
        }
    }
    tree.insert(HEAD_KEY, &head.encode())
        .and_then(|_| tree.flush())
        .map_err(StoreError::Engine)?;
    Ok(())
}
