//! One figure.

use serde::{Deserialize, Serialize};

use crate::goal::{Goal, Relative, Verdict};
use crate::stats;

/// Which of two figures is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// The lower one: times, memory, errors.
    Less,
    /// The higher one: rates.
    More,
    /// Neither: it is told, and never a regression.
    Neither,
}

/// What was measured, once per repeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The part of the suite; with the name it is what two runs know the figure by.
    pub part: String,
    /// What.
    pub name: String,
    /// Its unit, as printed: `ns`, `/s`, `MiB`, or nothing.
    pub unit: String,
    /// Which side is good.
    pub better: Better,
    /// One value per repeat, in the order in which they were measured.
    pub samples: Vec<f64>,
    /// Whether it comes out the same however often it is measured (what the kernel counts for a map, say): one
    /// sample is enough to compare it by.
    #[serde(default)]
    pub exact: bool,
    /// Goals of the figure by itself.
    #[serde(default)]
    pub goals: Vec<Goal>,
    /// What it is measured against, in the same run.
    #[serde(default)]
    pub against: Vec<Against>,
}

/// A baseline's samples beside a figure's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// The baseline's name.
    pub baseline: String,
    /// One value per repeat, in the figure's unit; none where it could not be measured.
    pub samples: Vec<f64>,
    /// What the figure must be beside it.
    #[serde(default)]
    pub goal: Option<Relative>,
    /// Whether it does nothing: what the figure is more than it is what was measured.
    #[serde(default)]
    pub empty: bool,
}

impl Figure {
    /// A figure without a baseline and without a goal.
    ///
    /// # Panics
    /// There is no sample, or one is no number: a bench that measured nothing must not look as if it
    /// had.
    #[must_use]
    pub fn new(part: &str, name: &str, unit: &str, better: Better, samples: Vec<f64>) -> Self {
        usable(name, &samples);
        Figure {
            part: part.to_owned(),
            name: name.to_owned(),
            unit: unit.to_owned(),
            better,
            samples,
            exact: false,
            goals: Vec::new(),
            against: Vec::new(),
        }
    }

    /// One that has no noise.
    #[must_use]
    pub fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    /// With one more goal of its own.
    #[must_use]
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self
    }

    /// With one more baseline. Samples of the same rounds, as many as the figure's, are compared
    /// round by round.
    ///
    /// # Panics
    /// There is no sample, or one is no number.
    #[must_use]
    pub fn against(mut self, baseline: &str, samples: &[f64], goal: Option<Relative>) -> Self {
        usable(baseline, samples);
        self.against.push(Against {
            baseline: baseline.to_owned(),
            samples: samples.to_vec(),
            goal,
            empty: false,
        });
        self
    }

    /// The same for a baseline that does nothing (an empty program, say), than which it may be so much more, if
    /// there is a goal.
    ///
    /// # Panics
    /// There is no sample, or one is no number.
    #[must_use]
    pub fn against_empty(mut self, baseline: &str, samples: &[f64], most: Option<f64>) -> Self {
        self = self.against(baseline, samples, most.map(Relative::over));
        if let Some(against) = self.against.last_mut() {
            against.empty = true;
        }
        self
    }

    /// With a baseline that could not be measured, as [`Figure::against`] would have had it: a goal beside it
    /// stays one, and is not met.
    #[must_use]
    pub fn lacks(mut self, baseline: &str, goal: Option<Relative>) -> Self {
        self.against.push(Against {
            baseline: baseline.to_owned(),
            samples: Vec::new(),
            goal,
            empty: false,
        });
        self
    }

    /// Part and name.
    pub(crate) fn called(&self) -> String {
        format!("{}: {}", self.part, self.name)
    }

    /// All verdicts: of its own goals, then of those beside baselines.
    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        let own = self.goals.iter().map(|goal| goal.verdict(&self.samples));
        own.chain(self.against.iter().filter_map(|one| one.verdict(self)))
    }

    /// One for all of them: met if each is; `None` without a goal.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdicts().reduce(|one, other| match (one, other) {
            (Verdict::Met, other) => other,
            (Verdict::NotMeasured, Verdict::Missed) => other,
            _ => one,
        })
    }

    /// Its goals that nothing can be said of, by what they are called.
    pub(crate) fn not_measured(&self) -> impl Iterator<Item = String> {
        let called = self.called();
        let missing = |verdict| verdict == Verdict::NotMeasured;
        let own = self.goals.iter();
        let own = own.filter(move |goal| missing(goal.verdict(&self.samples)));
        let beside = self.against.iter();
        let beside = beside.filter(move |one| one.verdict(self).is_some_and(missing));
        let own: Vec<String> = own.map(|_| called.clone()).collect();
        own.into_iter()
            .chain(beside.map(move |one| format!("{called}, beside {}", one.baseline)))
    }
}

impl Against {
    /// Whether it does nothing; a goal of a difference says so, too.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty || matches!(self.goal, Some(Relative::Over { .. }))
    }

    /// How many times the baseline the figure is; `None` where the baseline is nothing or less, or can't be told
    /// from that.
    #[must_use]
    pub fn ratio(&self, figure: &Figure) -> Option<f64> {
        Some(stats::ratio(&figure.samples, &self.samples)).filter(|ratio| ratio.is_finite())
    }

    /// How much more than the baseline it is, in the figure's unit; NaN where either was not measured.
    #[must_use]
    pub fn over(&self, figure: &Figure) -> f64 {
        stats::over(&figure.samples, &self.samples)
    }

    /// Whether the goal beside this baseline is reached; `None` without one.
    #[must_use]
    pub fn verdict(&self, figure: &Figure) -> Option<Verdict> {
        let goal = self.goal.as_ref()?;
        Some(goal.verdict(&figure.samples, &self.samples))
    }
}

fn usable(name: &str, samples: &[f64]) {
    assert!(
        !samples.is_empty() && samples.iter().all(|one| one.is_finite()),
        "{name} was not measured: {samples:?}"
    );
}
