//! Who is told which prefix has changed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Watched prefixes by their end, each behind its first segment.
type Watched = HashMap<Vec<u8>, HashMap<Vec<u8>, watch::Sender<u64>>>;

/// Watched prefixes. A prefix ends in `/`, so that a key's watchers are found by cutting it at each
/// `/`: the cost of a commit depends on its own keys, not on how many nodes are watching. Of a key
/// whose first segment nobody watches anything under, that is all that is looked up.
#[derive(Default)]
pub(super) struct Watchers {
    /// The lock is held for map look-ups only, never across an await.
    by_prefix: Mutex<Watched>,
}

impl Watchers {
    /// Follows a prefix; `now` is the newest durable revision.
    pub(super) fn follow(&self, prefix: &[u8], now: u64) -> watch::Receiver<u64> {
        let mut map = self.lock();
        let under = map.entry(first_segment(prefix).to_vec()).or_default();
        under
            .entry(prefix.to_vec())
            .or_insert_with(|| watch::channel(now).0)
            .subscribe()
    }

    /// Tells those who follow a prefix of one of these keys, which were changed at these revisions.
    /// The newest come first: of several changes under one prefix its followers hear once.
    pub(super) fn tell<'a>(&self, changed: impl Iterator<Item = (&'a [u8], u64)>) {
        let mut map = self.lock();
        if map.is_empty() {
            return;
        }
        for (key, revision) in changed {
            let first = first_segment(key);
            let Some(under) = map.get_mut(first) else {
                continue;
            };
            for (at, _) in key.iter().enumerate().filter(|&(_, &byte)| byte == b'/') {
                let prefix = &key[..=at];
                let Some(sender) = under.get(prefix) else {
                    continue;
                };
                // Nobody left: forget the prefix, or a node's every reconnect would leak one.
                if sender.is_closed() {
                    under.remove(prefix);
                    continue;
                }
                sender.send_if_modified(|at| {
                    let newer = *at < revision;
                    *at = revision.max(*at);
                    newer
                });
            }
            if under.is_empty() {
                map.remove(first);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.by_prefix
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key or a prefix up to its first `/`, with it.
fn first_segment(key: &[u8]) -> &[u8] {
    let end = key.iter().position(|&byte| byte == b'/');
    end.map_or(key, |end| &key[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_prefixes_of_a_key_are_told_and_the_lonely_are_forgotten() {
        let watchers = Watchers::default();
        let (mut a, b) = (watchers.follow(b"n/1/", 0), watchers.follow(b"n/2/", 0));
        let all = watchers.follow(b"n/", 0);
        let tell = |keys: &[(&'static [u8], u64)]| watchers.tell(keys.iter().copied());
        tell(&[(b"n/1/x", 5), (b"n/10", 5), (b"m/1/x", 5)]);
        assert!(a.has_changed().unwrap() && !b.has_changed().unwrap());
        assert!(all.has_changed().unwrap());
        assert_eq!(*a.borrow_and_update(), 5);
        tell(&[(b"n/1/y", 8), (b"n/1/x", 7)]);
        assert_eq!(*a.borrow_and_update(), 8, "the newest is what stands");
        tell(&[(b"n/1/x", 8)]);
        assert!(!a.has_changed().unwrap(), "nothing is newer");
        drop(b);
        tell(&[(b"n/2/x", 9)]);
        let watched = || watchers.lock().values().map(HashMap::len).sum::<usize>();
        assert_eq!(watched(), 2);
        drop((a, all));
        tell(&[(b"n/1/x", 10)]);
        assert_eq!((watched(), watchers.lock().len()), (0, 0));
    }
}
