//! Allowances per key, in bounded memory: a burst, then so many a second.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;

/// Keys remembered at once. One that has its whole allowance need not be.
const MAX_KEYS: usize = 65_536;

/// When each key's allowance is whole again.
pub(super) struct Rates<K = String>(Mutex<HashMap<K, Instant>>);

impl<K> Default for Rates<K> {
    fn default() -> Self {
        Rates(Mutex::default())
    }
}

impl<K: Eq + Hash> Rates<K> {
    /// Spends one of a key's allowance, if there is one.
    pub(super) fn take<Q>(&self, key: &Q, (per_second, burst): (u32, u32)) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        self.take_at(key, (per_second, burst), Instant::now())
    }

    fn take_at<Q>(&self, key: &Q, (per_second, burst): (u32, u32), now: Instant) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        let each = Duration::from_secs(1) / per_second.max(1);
        let mut whole = lock(&self.0);
        if let Some(at) = whole.get_mut(key) {
            let after = (*at).max(now) + each;
            if after.duration_since(now) > each * burst.max(1) {
                return false;
            }
            *at = after;
            return true;
        }
        if whole.len() >= MAX_KEYS {
            whole.retain(|_, at| *at > now);
            if whole.len() >= MAX_KEYS {
                return false;
            }
        }
        whole.insert(key.to_owned(), now + each);
        true
    }

    /// Forgets who has a whole allowance.
    pub(super) fn forget(&self) {
        let now = Instant::now();
        let mut whole = lock(&self.0);
        whole.retain(|_, at| *at > now);
        whole.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let (rates, now) = (Rates::<String>::default(), Instant::now());
        let take = |key: &str, ms| rates.take_at(key, (10, 3), now + Duration::from_millis(ms));
        assert!((0..3).all(|_| take("a", 0)));
        assert!(!take("a", 0) && !take("a", 99));
        assert!(take("a", 100) && !take("a", 100));
        assert!(take("b", 100), "another key has its own");
        assert!((0..3).all(|_| take("a", 5_000)));
    }

    #[test]
    fn a_flood_of_keys_takes_no_more_memory() {
        let (rates, now) = (Rates::<String>::default(), Instant::now());
        for n in 0..MAX_KEYS + 10 {
            rates.take_at(&*n.to_string(), (1, 1), now);
        }
        assert_eq!(lock(&rates.0).len(), MAX_KEYS);
        assert!(!rates.take_at("late", (1, 1), now));
        assert!(rates.take_at("later", (1, 1), now + Duration::from_secs(2)));
    }
}
