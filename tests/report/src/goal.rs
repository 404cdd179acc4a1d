//! Goals: what a figure must be, by itself or beside what it is measured against.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stats::{median, over, range, ratio};

/// Which side of a goal is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Met by as much or less.
    AtMost,
    /// Met by as much or more.
    AtLeast,
}

impl Bound {
    fn holds(self, is: f64, value: f64) -> bool {
        match self {
            Bound::AtMost => is <= value,
            Bound::AtLeast => is >= value,
        }
    }

    /// Whether a bound of this side asks less than another.
    fn is_looser(self, value: f64, than: f64) -> bool {
        match self {
            Bound::AtMost => value > than,
            Bound::AtLeast => value < than,
        }
    }

    fn sign(self) -> char {
        match self {
            Bound::AtMost => '≤',
            Bound::AtLeast => '≥',
        }
    }
}

/// Whether a goal was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was.
    Met,
    /// It was not.
    Missed,
    /// Nothing to judge by: the figure or what it is measured against has no samples, or there is no ratio to
    /// it, which is nothing, less, or not to be told from that. Counts as not met.
    NotMeasured,
}

impl From<bool> for Verdict {
    fn from(met: bool) -> Self {
        if met { Verdict::Met } else { Verdict::Missed }
    }
}

/// A goal of a figure by itself, in the figure's unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// Which side is good.
    pub bound: Bound,
    /// The bound.
    pub value: f64,
    /// Whether every sample must keep it, and not only their median.
    pub each: bool,
}

impl Goal {
    /// The median may be so much.
    #[must_use]
    pub fn at_most(value: f64) -> Self {
        Goal {
            bound: Bound::AtMost,
            value,
            each: false,
        }
    }

    /// The median must be so much.
    #[must_use]
    pub fn at_least(value: f64) -> Self {
        Goal {
            bound: Bound::AtLeast,
            value,
            each: false,
        }
    }

    /// The same for every sample: one that fails it, fails it.
    #[must_use]
    pub fn each(self) -> Self {
        Goal { each: true, ..self }
    }

    /// Whether it is a goal of the same kind, or a stricter kind: one for each sample in place of one for
    /// the median.
    pub(crate) fn is_as_strict_as(&self, other: &Goal) -> bool {
        self.bound == other.bound && self.each >= other.each
    }

    /// Whether it asks less than another of its kind.
    pub(crate) fn is_looser(&self, than: &Goal) -> bool {
        self.bound.is_looser(self.value, than.value)
    }

    /// Whether samples reach it.
    #[must_use]
    pub fn verdict(&self, samples: &[f64]) -> Verdict {
        if samples.is_empty() {
            return Verdict::NotMeasured;
        }
        let (least, most) = range(samples);
        let is = match (self.each, self.bound) {
            (false, _) => median(samples),
            (true, Bound::AtMost) => most,
            (true, Bound::AtLeast) => least,
        };
        self.bound.holds(is, self.value).into()
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = if self.each { ", each" } else { "" };
        write!(f, "{} {}{each}", self.bound.sign(), self.value)
    }
}

/// A goal of a figure beside what it is measured against. Rounds are pairs where both have as many
/// samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "snake_case")]
pub enum Relative {
    /// So much more than the baseline, in the figure's unit, at most.
    Over {
        /// How much.
        value: f64,
    },
    /// A multiple of the baseline.
    Ratio {
        /// Which side is good.
        bound: Bound,
        /// How many times.
        value: f64,
    },
}

impl Relative {
    /// At most so much more than the baseline, in the figure's unit.
    #[must_use]
    pub fn over(value: f64) -> Self {
        Relative::Over { value }
    }

    /// At most so many times the baseline.
    #[must_use]
    pub fn at_most(value: f64) -> Self {
        let bound = Bound::AtMost;
        Relative::Ratio { bound, value }
    }

    /// At least so many times the baseline.
    #[must_use]
    pub fn at_least(value: f64) -> Self {
        let bound = Bound::AtLeast;
        Relative::Ratio { bound, value }
    }

    /// What it asks of: the difference, or the ratio. NaN where there is none.
    pub(crate) fn is(&self, ours: &[f64], theirs: &[f64]) -> f64 {
        match self {
            Relative::Over { .. } => over(ours, theirs),
            Relative::Ratio { .. } => ratio(ours, theirs),
        }
    }

    /// Whether it asks less than another; `None` if it asks of something else.
    pub(crate) fn is_looser(&self, than: &Relative) -> Option<bool> {
        match (self, than) {
            (Relative::Over { value }, Relative::Over { value: than }) => {
                Some(Bound::AtMost.is_looser(*value, *than))
            }
            (
                Relative::Ratio { bound, value },
                Relative::Ratio {
                    bound: same,
                    value: than,
                },
            ) if bound == same => Some(bound.is_looser(*value, *than)),
            _ => None,
        }
    }

    /// Whether samples reach it.
    #[must_use]
    pub fn verdict(&self, ours: &[f64], theirs: &[f64]) -> Verdict {
        let (bound, value) = match self {
            Relative::Over { value } => (Bound::AtMost, *value),
            Relative::Ratio { bound, value } => (*bound, *value),
        };
        // Of nothing, or beside a baseline that did nothing: infinitely good is not good.
        match self.is(ours, theirs) {
            is if is.is_finite() => bound.holds(is, value).into(),
            _ => Verdict::NotMeasured,
        }
    }
}

impl fmt::Display for Relative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Relative::Over { value } => write!(f, "≤ +{value}"),
            Relative::Ratio { bound, value } => write!(f, "{} {value}×", bound.sign()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Goal, Relative, Verdict};

    #[test]
    fn judges() {
        use Verdict::{Met, Missed, NotMeasured};
        let samples = [1.0, 2.0, 9.0];
        assert_eq!(Goal::at_most(2.0).verdict(&samples), Met);
        assert_eq!(Goal::at_most(1.9).verdict(&samples), Missed);
        assert_eq!(Goal::at_most(2.0).each().verdict(&samples), Missed);
        assert_eq!(Goal::at_least(1.0).each().verdict(&samples), Met);
        assert_eq!(Goal::at_least(1.5).each().verdict(&samples), Missed);
        let theirs = [2.0, 3.0, 10.0];
        assert_eq!(Relative::over(-1.0).verdict(&samples, &theirs), Met);
        assert_eq!(Relative::over(-1.5).verdict(&samples, &theirs), Missed);
        assert_eq!(Relative::at_most(0.7).verdict(&samples, &theirs), Met);
        assert_eq!(Relative::at_least(0.7).verdict(&samples, &theirs), Missed);
        // What was not measured reaches nothing, whichever side is good.
        assert_eq!(Goal::at_most(0.0).each().verdict(&[]), NotMeasured);
        assert_eq!(Goal::at_least(0.0).verdict(&[]), NotMeasured);
        for goal in [
            Relative::at_most(9.0),
            Relative::at_least(0.0),
            Relative::over(9.0),
        ] {
            assert_eq!(goal.verdict(&samples, &[]), NotMeasured);
            assert_eq!(goal.verdict(&[], &theirs), NotMeasured);
        }
        // Nor is one far above a baseline that did nothing.
        assert_eq!(
            Relative::at_least(5.0).verdict(&samples, &[0.0; 3]),
            NotMeasured
        );
        assert_eq!(
            Relative::at_least(0.5).verdict(&[0.0, 1.0, 1.0], &[0.0, 1.0, 1.0]),
            NotMeasured
        );
        // Growth over something that cost less than nothing in most rounds: −9 is not ≤ 1.2. Nor is it where that
        // was in one of five: it can't be told from nothing. Where it is something, the medians are judged.
        let growth = Relative::at_most(1.2);
        assert_eq!(growth.verdict(&[9.0; 3], &[-1.0, -1.0, 2.0]), NotMeasured);
        assert_eq!(growth.verdict(&[9.0; 5], &[-1.0; 5]), NotMeasured);
        let theirs = [8.0, 8.0, -1.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0];
        assert_eq!(growth.verdict(&[9.0; 9], &theirs), Met);
        assert_eq!(growth.verdict(&[10.0; 9], &theirs), Missed);
        assert_eq!(Relative::over(9.0).to_string(), "≤ +9");
        assert_eq!(Goal::at_most(0.0).each().to_string(), "≤ 0, each");
    }
}
