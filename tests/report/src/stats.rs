//! Medians and ranges.

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

/// The median of what a function gives for both sides of each round, where both have as many; else
/// what it gives for both medians. NaN where a round gives no number: sorted, it would stand at one end, as
/// if it were one.
pub(crate) fn paired(ours: &[f64], theirs: &[f64], of: impl Fn(f64, f64) -> f64) -> f64 {
    if ours.len() != theirs.len() {
        return of(median(ours), median(theirs));
    }
    let each: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| of(*a, *b)).collect();
    if each.iter().any(|one| one.is_nan()) {
        return f64::NAN;
    }
    median(&each)
}

#[cfg(test)]
mod tests {
    use super::{median, paired, range};

    #[test]
    fn takes_rounds_as_pairs() {
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(range(&[2.0, 1.0, 3.0]), (1.0, 3.0));
        let ratio = |ours, theirs| paired(ours, theirs, |a, b| a / b);
        // The second round was slow for both: no ratio changes by that.
        assert_eq!(ratio(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]), 2.0);
        assert_eq!(ratio(&[2.0, 20.0, 2.0], &[1.0, 1.0]), 2.0);
        assert!(ratio(&[0.0, 2.0, 2.0], &[0.0, 1.0, 1.0]).is_nan());
        assert!(ratio(&[2.0], &[]).is_nan());
    }
}
