//! The next file, made ready before it is needed: while the one before it is written to, a thread of its own makes
//! it, or makes its name durable where one is used again. Nobody's answer waits for that then, which takes the
//! file system some milliseconds.
//!
//! Until the log turns to it, it stays what it was before, or zeros, so that whichever of its names a power cut
//! leaves is well. A start takes one that has no header of its own for what it is ([`super::replay`]).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::Log;
use super::disk::Disk;

/// A file that has its name, or is about to: by a thread, which can be told to hurry.
pub(super) struct Ahead(Option<(JoinHandle<io::Result<()>>, Hurry)>);

/// Whether somebody waits for the thread.
type Hurry = Arc<AtomicBool>;

impl Ahead {
    /// One whose name is durable.
    pub(super) const DURABLE: Ahead = Ahead(None);

    /// Has a thread do what it takes; `None` where none can be started.
    fn by(work: impl FnOnce(&AtomicBool) -> io::Result<()> + Send + 'static) -> Option<Ahead> {
        let hurry = Hurry::default();
        let told = Arc::clone(&hurry);
        let thread = std::thread::Builder::new().name("log-ahead".to_owned());
        let thread = thread.spawn(move || work(&told)).ok()?;
        // Tests look at the directory meanwhile.
        while cfg!(test) && !thread.is_finished() {
            std::thread::yield_now();
        }
        Some(Ahead(Some((thread, hurry))))
    }

    /// Waits for it; whether it is there, and its name durable.
    pub(super) fn settles(mut self) -> bool {
        self.wait()
    }

    fn wait(&mut self) -> bool {
        let made = self.0.take();
        made.is_none_or(|(thread, hurry)| {
            hurry.store(true, Ordering::Relaxed);
            matches!(thread.join(), Ok(Ok(())))
        })
    }
}

impl Drop for Ahead {
    /// Who opens the log next must not find a thread at work in it.
    fn drop(&mut self) {
        self.wait();
    }
}

impl Log {
    /// Gives a file that is to be used again its name in the log.
    pub(super) fn use_spare(&mut self, name: &str) -> io::Result<()> {
        self.disk.rename(&Disk::spare(self.spares - 1), name)?;
        self.spares -= 1;
        Ok(())
    }

    /// Makes the file ready that comes after the newest: one that is used again, as soon as there is one, or
    /// another, once half of the newest is written.
    pub(super) fn look_ahead(&mut self) {
        let number = self.newest.number.checked_add(1);
        let Some(name) = number.filter(|_| self.ahead.is_none()).map(Disk::name) else {
            return;
        };
        let disk = self.disk.clone();
        if self.spares > 0 {
            if let Err(error) = self.use_spare(&name) {
                // The turn tries again, and says so.
                tracing::debug!(%error, "the next file of the log is not named yet");
                return;
            }
            self.ahead = Ahead::by(move |_| disk.sync_names())
                .or_else(|| Some(Ahead::DURABLE).filter(|_| self.disk.sync_names().is_ok()));
        } else if self.newest.end > self.sizes.file / 2 && !self.full {
            let length = self.length();
            self.ahead = Ahead::by(move |hurry| {
                disk.create_ahead(&name, length, hurry)?;
                disk.sync_names()
            });
        }
    }
}
