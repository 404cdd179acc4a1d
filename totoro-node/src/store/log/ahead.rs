//! The next file, made ready before it is needed: it gets its name while the one before it is written to, and a
//! thread of its own makes the name durable. Nobody's answer waits for the directory then, which takes the file
//! system some milliseconds.
//!
//! Until the log turns to it, it stays what it was before, so that whichever of its names a power cut leaves is
//! well. A start takes one that has no header of its own for what it is ([`super::replay`]).

use std::io;
use std::thread::JoinHandle;

use super::Log;
use super::disk::{Disk, NEXT};

/// A file that has its name.
pub(super) struct Ahead(Option<JoinHandle<io::Result<()>>>);

impl Ahead {
    /// One whose name is durable.
    pub(super) const DURABLE: Ahead = Ahead(None);

    /// Waits for the directory; whether the name is durable.
    pub(super) fn settles(self) -> bool {
        self.0
            .is_none_or(|named| matches!(named.join(), Ok(Ok(()))))
    }
}

impl Log {
    /// Names the file that is to be used again after the newest, if there is one.
    pub(super) fn look_ahead(&mut self) {
        let number = self.newest.number.checked_add(1);
        let Some(number) = number.filter(|_| self.next && self.ahead.is_none()) else {
            return;
        };
        if let Err(error) = self.disk.rename(NEXT, &Disk::name(number)) {
            // The turn tries again, and says so.
            tracing::debug!(%error, "the next file of the log is not named yet");
            return;
        }
        self.next = false;
        let disk = self.disk.clone();
        let thread = std::thread::Builder::new().name("log-names".to_owned());
        self.ahead = match thread.spawn(move || disk.sync_names()) {
            Ok(thread) => Some(Ahead(Some(thread))),
            Err(_) => Some(Ahead::DURABLE).filter(|_| self.disk.sync_names().is_ok()),
        };
    }
}
