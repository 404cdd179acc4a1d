//! Moments and rates of random worlds.

use fastrand::Rng;

use super::one_of;

/// Units, ns.
pub(super) const MS: u64 = 1_000_000;
pub(super) const S: u64 = 1_000 * MS;
pub(super) const H: u64 = 3_600 * S;

/// When a world is, and how well its programs know that.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Now, boot-time ns.
    pub now: u64,
    /// Whether they go by ticks, a tenth of a second either way: then nothing turns on less.
    pub is_coarse: bool,
}

impl Clock {
    /// A moment: 0 (never, or at once), past, to come, or while the packets run.
    pub(super) fn moment(self, dice: &mut Rng) -> u64 {
        match dice.u8(..8) {
            0..3 => 0,
            3 | 4 => self.ago(dice.u64(if self.is_coarse { S..2 * H } else { 1..2 * H })),
            7 if !self.is_coarse => self.now + dice.u64(..20 * MS),
            _ => self.now + dice.u64(60 * S..2 * H),
        }
    }

    /// So long ago.
    pub(super) const fn ago(self, time: u64) -> u64 {
        self.now.saturating_sub(time)
    }

    /// So long ago, or not quite.
    pub(super) fn about(self, dice: &mut Rng, time: u64) -> u64 {
        if self.is_coarse {
            self.ago(one_of(dice, &[time - S, time + S]))
        } else {
            self.ago(one_of(dice, &[time - 5 * MS, time]))
        }
    }

    /// Interval and tolerance of a rate, ns; often none. No interval is so short that much would turn on the
    /// nanosecond; where the clock is coarse all turns on a quarter of one at least.
    pub(super) fn rate(self, dice: &mut Rng) -> (u64, u64) {
        if self.is_coarse {
            let interval = one_of(dice, &[0, 0, S, H]);
            return (interval, interval * dice.u64(..6) + interval / 2);
        }
        let interval = one_of(dice, &[0, 0, 50 * MS, S, H]);
        (
            interval,
            interval * dice.u64(..6) + dice.u64(..2) * dice.u64(..=interval),
        )
    }

    /// Where a budget stands.
    pub(super) fn arrival(self, dice: &mut Rng, (interval, burst): (u64, u64)) -> u64 {
        match dice.u8(..4) {
            0 => self.ago(dice.u64(..H)),
            1 if self.is_coarse => self.now + interval * dice.u64(..8) + interval / 4,
            1 => self.now + dice.u64(..=2 * (interval + burst)),
            _ => 0,
        }
    }
}
