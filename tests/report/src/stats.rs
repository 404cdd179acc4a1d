//! Medians, percentiles and ranges.

use std::time::Duration;

/// The middle one; of two, what lies between. NaN of none.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// The least and the most.
#[must_use]
pub fn range(samples: &[f64]) -> (f64, f64) {
    samples
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), one| {
            (least.min(*one), most.max(*one))
        })
}

/// The value that so many percent of the sorted ones do not exceed (the nearest rank), milliseconds. NaN of none.
#[must_use]
pub fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted
        .get(at)
        .map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
}

/// How much more ours is than theirs: the median of the rounds' differences where both have as many samples,
/// else what lies between the medians. NaN where either has none.
pub(crate) fn over(ours: &[f64], theirs: &[f64]) -> f64 {
    if ours.len() != theirs.len() {
        return median(ours) - median(theirs);
    }
    let each: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a - b).collect();
    median(&each)
}

/// How often chance alone may take for more than nothing what is nothing.
const CHANCE: f64 = 0.05;

/// How many times theirs ours is: the median of the rounds' ratios where both have as many samples, else the
/// ratio of the medians.
///
/// A denominator of nothing or less (what is a difference can be that) makes a ratio that says nothing, and a
/// negative one would look as if it were small: the medians of all rounds are compared then. NaN where theirs can't
/// be told from nothing, since any ratio may come out so.
pub(crate) fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    if !is_something(theirs) {
        return f64::NAN;
    }
    if ours.len() != theirs.len() || theirs.iter().any(|one| *one <= 0.0) {
        return median(ours) / median(theirs);
    }
    let each: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
    median(&each)
}

/// Whether samples are more than nothing by more than chance: all of them are, or so many that as many heads
/// of a coin are rare (the sign test, which knows of no distribution and takes the noise from the rounds).
fn is_something(samples: &[f64]) -> bool {
    let is_above = samples.iter().filter(|one| **one > 0.0).count();
    let others = samples.len() - is_above;
    if samples.is_empty() || others == 0 {
        return !samples.is_empty();
    }
    let (mut ways, mut all) = (1.0, 1.0);
    for tails in 0..others {
        ways *= (samples.len() - tails) as f64 / (tails + 1) as f64;
        all += ways;
    }
    all * 0.5_f64.powf(samples.len() as f64) <= CHANCE
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{median, over, percentile, range, ratio};

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let of = |percent| percentile(&sorted, percent);
        assert_eq!((of(50), of(99), of(100)), (100.0, 198.0, 200.0));
        assert_eq!(percentile(&sorted[..1], 99), 1.0);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn takes_rounds_as_pairs() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(range(&[2.0, 1.0, 3.0]), (1.0, 3.0));
        // The second round was slow for both: no ratio changes by that.
        assert_eq!(ratio(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]), 2.0);
        assert_eq!(ratio(&[2.0, 20.0, 2.0], &[1.0, 1.0]), 2.0);
        assert!(ratio(&[0.0, 2.0, 2.0], &[0.0, 1.0, 1.0]).is_nan());
        assert!(ratio(&[2.0], &[]).is_nan() && ratio(&[], &[]).is_nan());
        assert_eq!(over(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]), 1.0);
        assert_eq!(over(&[2.0, 20.0, 2.0], &[1.0, 3.0]), 0.0);
        assert!(over(&[2.0], &[]).is_nan());
    }

    #[test]
    fn a_ratio_to_less_than_nothing_is_none() {
        // Round by round most ratios are negative: the smaller for it, and meaningless.
        assert!(
            ratio(
                &[9.0; 9],
                &[-1.0, -1.0, -1.0, -1.0, -1.0, 4.0, 4.0, 4.0, 4.0]
            )
            .is_nan()
        );
        assert!(ratio(&[9.0; 9], &[-1.0; 9]).is_nan());
        assert!(ratio(&[9.0; 9], &[0.0; 9]).is_nan());
        // One of nine is chance; two are more than a twentieth of all ways to fall.
        let mut theirs = [3.0; 9];
        theirs[4] = -1.0;
        assert_eq!(ratio(&[9.0; 9], &theirs), 3.0);
        theirs[5] = -1.0;
        assert!(ratio(&[9.0; 9], &theirs).is_nan());
        // Five of twenty are not.
        let mut theirs = [3.0; 20];
        theirs[..5].fill(-1.0);
        assert_eq!(ratio(&[9.0; 20], &theirs), 3.0);
        theirs[..6].fill(-1.0);
        assert!(ratio(&[9.0; 20], &theirs).is_nan());
        // Nor can few rounds be told from chance once one of them fails.
        assert!(ratio(&[9.0; 4], &[3.0, 3.0, 3.0, -1.0]).is_nan());
        // Of as many thousands, powers of two do not underflow to a wrong answer.
        let mut many = vec![-1.0; 1_500];
        many.extend([3.0; 1_500]);
        assert!(ratio(&[9.0; 3_000], &many).is_nan());
    }
}
