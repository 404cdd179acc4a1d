//! Moments and rates of random worlds.

use fastrand::Rng;

use super::one_of;

/// Units, ns.
pub(super) const MS: u64 = 1_000_000;
pub(super) const S: u64 = 1_000 * MS;
pub(super) const H: u64 = 3_600 * S;

/// A moment around `now`: 0 (never, or at once), past, to come, or while the packets run.
pub(super) fn moment(dice: &mut Rng, now: u64) -> u64 {
    match dice.u8(..8) {
        0..3 => 0,
        3 | 4 => now.saturating_sub(dice.u64(1..2 * H)),
        5 | 6 => now + dice.u64(60 * S..2 * H),
        _ => now + dice.u64(..20 * MS),
    }
}

/// Interval and tolerance of a rate, ns; often none. No interval is so short that much would turn on
/// the nanosecond.
pub(super) fn rate(dice: &mut Rng) -> (u64, u64) {
    let interval = one_of(dice, &[0, 0, 50 * MS, S, H]);
    (
        interval,
        interval * dice.u64(..6) + dice.u64(..2) * dice.u64(..=interval),
    )
}

/// Where a budget stands.
pub(super) fn arrival(dice: &mut Rng, now: u64, (interval, burst): (u64, u64)) -> u64 {
    match dice.u8(..4) {
        0 => now.saturating_sub(dice.u64(..H)),
        1 => now + dice.u64(..=2 * (interval + burst)),
        _ => 0,
    }
}
