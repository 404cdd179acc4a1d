//! Time by the control plane's clock: the machine's own plus an offset learned from heartbeats and
//! kept while the control plane is away.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine's own clock, Unix milliseconds.
#[must_use]
pub fn machine_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// The control plane's clock as this node knows it.
#[derive(Debug, Default)]
pub struct Clock {
    offset_ms: AtomicI64,
}

impl Clock {
    /// A clock with the offset that was last known, ms.
    #[must_use]
    pub const fn new(offset_ms: i64) -> Self {
        Clock {
            offset_ms: AtomicI64::new(offset_ms),
        }
    }

    /// Now, Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        machine_ms().saturating_add(self.offset_ms())
    }

    /// The control plane's clock less the machine's, ms.
    #[must_use]
    pub fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::Relaxed)
    }

    /// Learns from an exchange: `sent` and `received` by the machine's clock, `theirs` somewhere
    /// between. Whether the offset moved by more than the exchange's own doubt, ms.
    pub fn learn(&self, sent: i64, received: i64, theirs: i64) -> bool {
        let doubt = (received - sent).max(0) / 2;
        let offset = theirs - (sent + doubt);
        if (offset - self.offset_ms()).abs() <= doubt.max(5) {
            return false;
        }
        self.offset_ms.store(offset, Ordering::Relaxed);
        true
    }

    /// An instant by the control plane's clock (Unix ms) on the kernel's boot-time clock, ns;
    /// never 0, which means "never" there.
    #[must_use]
    pub fn to_boot_ns(&self, at_ms: i64) -> u64 {
        let ahead = i128::from(at_ms) - i128::from(self.now_ms());
        let at = i128::from(crate::kernel::boot_ns()) + ahead * 1_000_000;
        u64::try_from(at.max(1)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_learned_beyond_doubt_only() {
        let clock = Clock::default();
        assert!(!clock.learn(1_000, 1_100, 1_050), "equal clocks");
        assert!(!clock.learn(1_000, 1_100, 1_099), "within the round trip");
        assert!(clock.learn(1_000, 1_100, 61_050));
        assert_eq!(clock.offset_ms(), 60_000);
        assert!((clock.now_ms() - machine_ms() - 60_000).abs() < 1_000);
    }

    #[test]
    fn boot_time_is_never_the_word_for_never() {
        let clock = Clock::default();
        assert_eq!(clock.to_boot_ns(i64::MIN / 2), 1);
        let soon = clock.to_boot_ns(clock.now_ms() + 10_000);
        let ahead = soon - crate::kernel::boot_ns();
        assert!((9_000_000_000..=10_100_000_000).contains(&ahead), "{ahead}");
    }
}
