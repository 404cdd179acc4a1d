//! Time by the control plane's clock: this machine's time since boot plus a difference learned from
//! heartbeats. The wall clock counts only at start, so that a step of it moves nothing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::kernel::boot_ns;

/// The machine's own wall clock, Unix milliseconds.
#[must_use]
pub fn machine_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// The time since boot, ms.
#[must_use]
pub fn boot_ms() -> i64 {
    i64::try_from(boot_ns() / 1_000_000).unwrap_or(i64::MAX)
}

/// The control plane's clock as this node knows it.
#[derive(Debug)]
pub struct Clock {
    /// The control plane's clock less the time since boot, ms.
    base_ms: AtomicI64,
}

impl Clock {
    /// A clock that begins at the machine's own, with the offset that was last known, ms.
    #[must_use]
    pub fn new(offset_ms: i64) -> Self {
        let base_ms = (machine_ms() - boot_ms()).saturating_add(offset_ms);
        Clock {
            base_ms: AtomicI64::new(base_ms),
        }
    }

    /// Now, Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        boot_ms().saturating_add(self.base_ms())
    }

    fn base_ms(&self) -> i64 {
        self.base_ms.load(Ordering::Relaxed)
    }

    /// The control plane's clock less the machine's now, ms: what [`Clock::new`] takes after a
    /// restart. A step of the machine's clock moves it.
    #[must_use]
    pub fn offset_ms(&self) -> i64 {
        self.now_ms().saturating_sub(machine_ms())
    }

    /// Learns from an exchange: `sent` and `received` are times since boot, ms, `theirs` is
    /// somewhere between. Whether the clock moved, which it does beyond the exchange's own doubt.
    pub fn learn(&self, sent: i64, received: i64, theirs: i64) -> bool {
        let doubt = (received - sent).max(0) / 2;
        let base = theirs.saturating_sub(sent + doubt);
        if base.saturating_sub(self.base_ms()).abs() <= doubt.max(5) {
            return false;
        }
        self.base_ms.store(base, Ordering::Relaxed);
        true
    }

    /// An instant by the control plane's clock (Unix ms) on the kernel's boot-time clock, ns;
    /// never 0, which means "never" there.
    #[must_use]
    pub fn to_boot_ns(&self, at_ms: i64) -> u64 {
        let at = (i128::from(at_ms) - i128::from(self.base_ms())) * 1_000_000;
        u64::try_from(at.max(1)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_learned_beyond_doubt_only() {
        let clock = Clock::new(0);
        let base = clock.base_ms();
        assert!(!clock.learn(1_000, 1_100, base + 1_050), "equal clocks");
        assert!(!clock.learn(1_000, 1_100, base + 1_099), "within the trip");
        assert!(clock.learn(1_000, 1_100, base + 61_050));
        assert!((clock.offset_ms() - 60_000).abs() < 1_000);
        assert!((clock.now_ms() - machine_ms() - 60_000).abs() < 1_000);
    }

    #[test]
    fn only_the_time_since_boot_moves_it() {
        // Booted two hours behind: learned, and then NTP steps the machine's clock. Nothing here
        // reads that clock again, so what was learned stays.
        let clock = Clock::new(-7_200_000);
        let (sent, theirs) = (boot_ms(), machine_ms());
        assert!(clock.learn(sent, sent, theirs));
        let before = clock.now_ms() - boot_ms();
        assert_eq!(before, theirs - sent);
        assert!(
            !clock.learn(sent, sent, theirs),
            "the same again is no news"
        );
        assert!((clock.now_ms() - boot_ms() - before).abs() <= 1);
    }

    #[test]
    fn boot_time_is_never_the_word_for_never() {
        let clock = Clock::new(0);
        assert_eq!(clock.to_boot_ns(i64::MIN / 2), 1);
        let soon = clock.to_boot_ns(clock.now_ms() + 10_000);
        let ahead = soon - boot_ns();
        assert!((9_000_000_000..=10_100_000_000).contains(&ahead), "{ahead}");
    }
}
