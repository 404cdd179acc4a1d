//! How many of something one client may hold at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Seats by whose they are. Only those that are taken cost memory.
pub(super) struct Seats<K> {
    most: usize,
    taken: Mutex<HashMap<K, usize>>,
}

/// One seat, free again when dropped.
pub(super) struct Seat<K: Eq + Hash> {
    seats: Arc<Seats<K>>,
    whose: K,
}

impl<K: Eq + Hash + Clone> Seats<K> {
    /// `most` for each.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Seats {
            most,
            taken: Mutex::default(),
        })
    }

    /// How many are taken.
    pub(super) fn total(&self) -> usize {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.values().sum()
    }

    /// Takes one, if there is one left for `whose`.
    pub(super) fn take(self: &Arc<Self>, whose: K) -> Option<Seat<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(whose.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        let seats = Arc::clone(self);
        Some(Seat { seats, whose })
    }
}

impl<K: Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let taken = &self.seats.taken;
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_and_they_come_back() {
        let seats = Seats::new(2);
        let (first, second) = (seats.take("a"), seats.take("a"));
        assert!(first.is_some() && second.is_some() && seats.take("a").is_none());
        assert!(seats.take("b").is_some());
        drop(first);
        assert!(seats.take("a").is_some());
        drop(second);
        assert!(seats.taken.lock().unwrap().is_empty());
    }
}
