//! What users' own times say: how many were there at once, and how many came too soon.

use std::time::{Duration, Instant};

/// From when to when a user was surely there.
pub(crate) type Span = (Instant, Option<Instant>);

/// The most that were there at once, of spans of which each is surely part of a longer one.
pub(crate) fn peak(spans: impl Iterator<Item = Span>) -> u64 {
    let mut changes = Vec::new();
    for (from, to) in spans {
        changes.push((from, 1_i64));
        changes.extend(to.map(|to| (to, -1)));
    }
    // Who left in the same moment was gone first: the bound stays a lower one.
    changes.sort_unstable();
    let (mut now, mut most) = (0_i64, 0);
    for (_, change) in changes {
        now += change;
        most = most.max(now);
    }
    most.unsigned_abs()
}

/// By how many more were admitted, at the worst moment, than a rate per second gives with a burst of `burst`,
/// all of whom came after `start`. Who had heard by then was admitted before.
pub(crate) fn too_soon(
    start: Instant,
    heard: impl Iterator<Item = Instant>,
    rate: u32,
    burst: u32,
) -> u64 {
    let mut heard: Vec<Duration> = heard
        .map(|at| at.saturating_duration_since(start))
        .collect();
    heard.sort_unstable();
    let per_second = u128::from(rate);
    let over = heard.iter().zip(1_u64..).map(|(after, count)| {
        let since = per_second * after.as_nanos() / 1_000_000_000;
        let most = u64::from(burst).saturating_add(u64::try_from(since).unwrap_or(u64::MAX));
        count.saturating_sub(most)
    });
    over.max().unwrap_or(0)
}

/// A count that is looked at again and again: between any two looks it grows by no more than a rate gives.
pub(crate) struct Pace {
    rate: u32,
    burst: u32,
    epoch: Instant,
    /// What the count was beyond the rate at the look where that was least, in billionths.
    least: Option<i128>,
}

/// Billionths of one.
const ONE: i128 = 1_000_000_000;

impl Pace {
    /// Of a rate per second with a burst; nothing was looked at before `epoch`.
    pub(crate) fn new(rate: u32, burst: u32, epoch: Instant) -> Pace {
        let least = None;
        Pace {
            rate,
            burst,
            epoch,
            least,
        }
    }

    /// It was `count` at some moment between these two; by how many it has grown too fast.
    pub(crate) fn see(&mut self, before: Instant, count: u64, after: Instant) -> u64 {
        let beyond = |at: Instant| {
            let since = at.saturating_duration_since(self.epoch).as_nanos();
            i128::from(count) * ONE - i128::from(self.rate) * since.cast_signed()
        };
        let least = self
            .least
            .map_or(beyond(before), |it| it.min(beyond(before)));
        self.least = Some(least);
        let over = beyond(after) - least - i128::from(self.burst) * ONE;
        // Whole ones, and a part of one is one.
        u64::try_from((over + ONE - 1).max(0) / ONE).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Pace, peak, too_soon};

    #[test]
    fn a_count_keeps_its_pace_between_any_two_looks() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(10, 2, start);
        // Nothing for a second, two at once, one each tenth of a second.
        for (ms, count) in [(0, 7), (1000, 7), (1001, 9), (1101, 10), (1201, 11)] {
            assert_eq!(pace.see(at(ms), count, at(ms)), 0, "{ms}");
        }
        // What was looked at slowly may have been early or late.
        assert_eq!(pace.see(at(1250), 12, at(1301)), 0);
        assert_eq!(pace.see(at(1302), 13, at(1302)), 1);
        assert_eq!(pace.see(at(1302), 15, at(1302)), 3);
    }

    #[test]
    fn a_peak_is_of_those_who_were_there_together() {
        let at = |ms| Instant::now() + Duration::from_millis(ms);
        let (a, b, c) = (at(0), at(1000), at(2000));
        assert_eq!(peak([].into_iter()), 0);
        assert_eq!(peak([(a, Some(b)), (b, Some(c)), (b, None)].into_iter()), 2);
        assert_eq!(peak([(a, Some(c)), (b, None)].into_iter()), 2);
        assert_eq!(peak([(a, Some(b)), (c, None)].into_iter()), 1);
    }

    #[test]
    fn a_burst_at_once_and_then_one_by_one() {
        let start = Instant::now();
        let over = |ms: &[u64]| {
            let heard = ms.iter().map(|ms| start + Duration::from_millis(*ms));
            too_soon(start, heard, 10, 2)
        };
        assert_eq!(over(&[]), 0);
        assert_eq!(over(&[0, 0, 100, 250, 300]), 0);
        assert_eq!(over(&[300, 250, 99, 0, 0]), 1, "a millisecond too soon");
        assert_eq!(over(&[0, 0, 0, 0, 1000]), 2);
    }
}
