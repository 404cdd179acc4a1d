//! Goals: what a figure must be, by itself or beside what it is measured against.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stats::{median, paired, range};

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
    /// it. Counts as not met.
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

    /// Whether samples reach it.
    #[must_use]
    pub fn verdict(&self, ours: &[f64], theirs: &[f64]) -> Verdict {
        let (is, bound, value) = match self {
            Relative::Over { value } => (paired(ours, theirs, |a, b| a - b), Bound::AtMost, *value),
            Relative::Ratio { bound, value } => {
                (paired(ours, theirs, |a, b| a / b), *bound, *value)
            }
        };
        // Of nothing, or beside a baseline that did nothing: infinitely good is not good.
        if is.is_finite() {
            bound.holds(is, value).into()
        } else {
            Verdict::NotMeasured
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
        assert_eq!(Relative::over(9.0).to_string(), "≤ +9");
        assert_eq!(Goal::at_most(0.0).each().to_string(), "≤ 0, each");
    }
}
