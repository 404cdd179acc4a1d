//! Who is told which prefix has changed.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Watched prefixes. A prefix ends in `/`, so that a key's watchers are found by cutting it at each
/// `/`: the cost of a commit depends on its own keys, not on how many nodes are watching.
#[derive(Default)]
pub(super) struct Watchers {
    /// The lock is held for map look-ups only, never across an await.
    by_prefix: Mutex<HashMap<Vec<u8>, watch::Sender<u64>>>,
}

impl Watchers {
    /// Follows a prefix; `now` is the newest durable revision.
    pub(super) fn follow(&self, prefix: &[u8], now: u64) -> watch::Receiver<u64> {
        let mut map = self
            .by_prefix
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        map.entry(prefix.to_vec())
            .or_insert_with(|| watch::channel(now).0)
            .subscribe()
    }

    /// Tells those who follow a prefix of one of these keys.
    pub(super) fn tell<'a>(&self, keys: impl Iterator<Item = &'a [u8]>, revision: u64) {
        let mut map = self
            .by_prefix
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if map.is_empty() {
            return;
        }
        for key in keys {
            for (at, _) in key.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
                let prefix = &key[..=at];
                if let Some(sender) = map.get(prefix) {
                    // Nobody left: forget the prefix, or a node's every reconnect would leak one.
                    if sender.send(revision).is_err() {
                        map.remove(prefix);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_prefixes_of_a_key_are_told_and_the_lonely_are_forgotten() {
        let watchers = Watchers::default();
        let (mut a, b) = (watchers.follow(b"n/1/", 0), watchers.follow(b"n/2/", 0));
        watchers.tell([&b"n/1/x"[..], b"n/10"].into_iter(), 5);
        assert!(a.has_changed().unwrap() && !b.has_changed().unwrap());
        assert_eq!(*a.borrow_and_update(), 5);
        drop(b);
        watchers.tell([&b"n/2/x"[..]].into_iter(), 6);
        assert_eq!(watchers.by_prefix.lock().unwrap().len(), 1);
    }
}
