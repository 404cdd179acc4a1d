//! Time by the control plane's clock: this machine's time since boot plus a difference learned from
//! heartbeats. The wall clock counts only at start, so that a step of it moves nothing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

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

/// How far the machine's clock may be off before it is told of, ms: what tickets allow for.
pub const TOLERATED_MS: i64 = totoro_api::ticket::SKEW_S * 1000;

/// How far beyond an exchange's own doubt a clock has to be off before it is set, ms. All that is judged by it is
/// told in seconds. Each time that it is set, every instant in the kernel's maps is written anew: with two clocks
/// that drift apart by 50 ppm once in a quarter of an hour and more, not each minute or two.
const WORTH_MS: i64 = 50;

/// What is kept of a clock for the next start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The boot that it was kept in.
    pub boot: String,
    /// The control plane's clock less the time since that boot, ms.
    pub base_ms: i64,
    /// The control plane's clock less the machine's, ms.
    pub offset_ms: i64,
}

impl Kept {
    /// Whether the machine's clock is further off than is tolerated.
    #[must_use]
    pub const fn is_far(&self) -> bool {
        self.offset_ms.abs() > TOLERATED_MS
    }

    /// The control plane's clock less the time since `boot`, ms, when the machine's clock less that
    /// is `machine_ms`. Within one boot the machine's clock is not asked: somebody may have set it.
    fn base_ms(&self, boot: &str, machine_ms: i64) -> i64 {
        if self.boot == boot {
            self.base_ms
        } else {
            machine_ms.saturating_add(self.offset_ms)
        }
    }
}

/// The control plane's clock as this node knows it.
#[derive(Debug)]
pub struct Clock {
    /// The control plane's clock less the time since boot, ms.
    base_ms: AtomicI64,
}

impl Clock {
    /// A clock that begins at the machine's own, with an offset, ms.
    #[must_use]
    pub fn new(offset_ms: i64) -> Self {
        let kept = Kept {
            offset_ms,
            ..Kept::default()
        };
        Clock::resume(&kept, &crate::machine::boot_id())
    }

    /// A clock that goes on from what was kept, in this boot.
    #[must_use]
    pub fn resume(kept: &Kept, boot: &str) -> Self {
        let base_ms = kept.base_ms(boot, machine_ms() - boot_ms());
        Clock {
            base_ms: AtomicI64::new(base_ms),
        }
    }

    /// What [`Clock::resume`] takes after a restart in `boot` or a later one.
    #[must_use]
    pub fn kept(&self, boot: &str) -> Kept {
        Kept {
            boot: boot.to_owned(),
            base_ms: self.base_ms(),
            offset_ms: self.offset_ms(),
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

    /// The control plane's clock less the machine's now, ms. A step of the machine's clock moves it.
    #[must_use]
    pub fn offset_ms(&self) -> i64 {
        self.now_ms().saturating_sub(machine_ms())
    }

    /// Learns from an exchange: `sent` and `received` are times since boot, ms, `theirs` is
    /// somewhere between. By how much the clock moved, ms, which it does where it is off by [`WORTH_MS`] beyond the
    /// exchange's own doubt.
    pub fn learn(&self, sent: i64, received: i64, theirs: i64) -> Option<i64> {
        let doubt = (received - sent).max(0) / 2;
        let base = theirs.saturating_sub(sent + doubt);
        let by = base.saturating_sub(self.base_ms());
        (by.abs() > doubt + WORTH_MS).then(|| {
            self.base_ms.store(base, Ordering::Relaxed);
            by
        })
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
        let learn = |theirs: i64| clock.learn(1_000, 1_100, base + theirs);
        assert_eq!(learn(1_050), None, "equal clocks");
        assert_eq!(learn(1_099), None, "within the trip");
        // A slow exchange knows less than what was learned by a quick one: a clock that is right by some ms
        // must not be set to the middle of it.
        assert_eq!(learn(1_149), None, "not worth it");
        assert_eq!(learn(61_050), Some(60_000));
        assert!((clock.offset_ms() - 60_000).abs() < 1_000);
        assert!((clock.now_ms() - machine_ms() - 60_000).abs() < 1_000);
    }

    #[test]
    fn only_the_time_since_boot_moves_it() {
        // Booted two hours behind: learned, and then NTP steps the machine's clock. Nothing here
        // reads that clock again, so what was learned stays.
        let clock = Clock::new(-7_200_000);
        let (sent, theirs) = (boot_ms(), machine_ms());
        assert!(clock.learn(sent, sent, theirs).is_some());
        let before = clock.now_ms() - boot_ms();
        assert_eq!(before, theirs - sent);
        let again = clock.learn(sent, sent, theirs);
        assert_eq!(again, None, "the same again is no news");
        assert!((clock.now_ms() - boot_ms() - before).abs() <= 1);
    }

    #[test]
    fn a_restart_does_not_believe_a_clock_that_was_set_meanwhile() {
        let kept = Kept {
            boot: "this".to_owned(),
            base_ms: 1_000_000,
            offset_ms: -500,
        };
        let (as_kept, a_day_ahead) = (1_000_500, 1_000_500 + 86_400_000);
        assert_eq!(kept.base_ms("this", as_kept), 1_000_000);
        assert_eq!(kept.base_ms("this", a_day_ahead), 1_000_000);
        // After a reboot the time since boot begins anew, and there is nothing better to go by.
        assert_eq!(kept.base_ms("next", 7_000_500), 7_000_000);

        let clock = Clock::resume(&kept, "this");
        assert_eq!(clock.kept("this").base_ms, 1_000_000);
        assert_eq!(clock.now_ms() - boot_ms(), 1_000_000);
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
