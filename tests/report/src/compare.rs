//! Whether one run is worse than another, by more than noise.
//!
//! A figure's samples of both runs are put through a one-sided Mann-Whitney U test: it asks how likely
//! chance alone puts the later samples so far on the worse side, whatever their distribution. Where both
//! runs measured a figure beside the same baseline, the rounds' ratios are compared, so that a slower
//! machine is no regression; beside one that does nothing, what is more than it, as a part of it. Many figures are asked at once, so each gets its part of the whole chance of
//! a false alarm (Bonferroni). What a test finds may still be too small to matter, and rounds of one run
//! know nothing of what differs between two (memory's layout, say): below the smallest effect nothing is
//! a regression.
//!
//! Goals need no test: one that was met and is missed is lost, however little there is between, and one that
//! was loosened, or that the first run could judge and the second can't any more, is no note: what is not
//! measured can't have become better. Nor is what too few repeats say nothing of "not worse": it is not known.

use std::fmt::{self, Write};

use statrs::stats_tests::Alternative;
use statrs::stats_tests::mannwhitneyu::{MannWhitneyUMethod, mannwhitneyu};

use crate::figure::{Better, Figure};
use crate::gone::goals;
use crate::pair::{Pair, pair};
use crate::run::Run;
use crate::stats::median;
use crate::table::number;

/// What counts.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The smallest change of a median that matters, as a part of what it was.
    pub effect: f64,
    /// The chance of a false alarm, over all figures together.
    pub chance: f64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            effect: 0.05,
            chance: 0.05,
        }
    }
}

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Worse, by more than noise and more than the smallest effect.
    Regression,
    /// A goal was met, and is missed by what it asked for then: no noise excuses that.
    GoalLost,
    /// A goal asks less than before.
    GoalLoosened,
    /// A goal was judged, and is not any more: its figure or its baseline is not there, or not measured, or
    /// the goal is dropped.
    GoalGone,
    /// Better, likewise.
    Better,
    /// Neither.
    Same,
    /// Too few repeats: no result of theirs could be told from chance, so that it may be worse.
    TooFew,
}

/// What two runs say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing became worse that could be told from chance, and all could be that had to.
    NotWorse,
    /// Something did.
    Worse,
    /// Of nothing it is known, but of something, or of all, it can't be told.
    CantTell,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Regression => "**worse**",
            Outcome::GoalLost => "**goal lost**",
            Outcome::GoalLoosened => "**goal loosened**",
            Outcome::GoalGone => "**goal not judged any more**",
            Outcome::Better => "better",
            Outcome::Same => "",
            Outcome::TooFew => "can't tell: too few repeats",
        })
    }
}

/// A figure in both runs.
#[derive(Clone, Debug)]
pub struct Change {
    /// Part and name.
    pub figure: String,
    /// The baseline whose ratios were compared, or that is gone; `None`: the figures themselves.
    pub beside: Option<String>,
    /// Whether that does nothing, so that what is more than it was compared, as a part of it.
    pub beyond: bool,
    /// The goal that became another or was lost, before and now; `None`: the figure did.
    pub goal: Option<String>,
    /// Its median before and after; NaN where it is gone. Of a goal beside a baseline, what that asks of: the
    /// difference, or the ratio.
    pub medians: (f64, f64),
    /// The chance that it is worse (or, if it looks better, better) by chance alone; 1 where it can't
    /// be either, NaN where no test was made.
    pub p: f64,
    /// What became of it.
    pub outcome: Outcome,
}

/// All that both runs have.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The figures of both.
    pub changes: Vec<Change>,
    /// Figures that only one has, or has measured, and whose goals, if any, may be missing.
    pub alone: Vec<String>,
    /// Why the runs may not be comparable.
    pub warnings: Vec<String>,
    rules: Rules,
}

/// Compares two runs.
#[must_use]
pub fn compare(before: &Run, after: &Run, rules: Rules) -> Comparison {
    let same = |one: &Figure, other: &Figure| {
        one.part == other.part && one.name == other.name && one.unit == other.unit
    };
    let mut alone = Vec::new();
    let mut pairs = Vec::new();
    let mut of_goals = Vec::new();
    for figure in &before.figures {
        let other = after.figures.iter().find(|other| same(figure, other));
        let goals = goals(figure, other);
        match other {
            // What was not asked for is not missing; what was asked for in both runs is.
            None if goals.is_empty() || !after.only.is_empty() && after.only != before.only => {
                alone.push(format!("{} (before)", figure.called()));
            }
            None => of_goals.extend(goals),
            Some(other) => {
                of_goals.extend(goals);
                let both = !figure.samples.is_empty() && !other.samples.is_empty();
                if both && figure.better != Better::Neither {
                    pairs.push(pair(figure, other));
                }
            }
        }
    }
    let new = |figure: &&Figure| !before.figures.iter().any(|other| same(figure, other));
    let new = after.figures.iter().filter(new);
    alone.extend(new.map(|figure| format!("{} (after)", figure.called())));
    let tests = pairs.iter().filter(|pair| !pair.is_exact()).count();
    let chance = rules.chance / tests.max(1) as f64;
    let changes = pairs.iter().map(|pair| Change {
        figure: pair.before.called(),
        ..judge(pair, rules.effect, chance)
    });
    Comparison {
        changes: changes.chain(of_goals).collect(),
        alone,
        warnings: warnings(before, after),
        rules,
    }
}

fn judge(pair: &Pair, effect: f64, chance: f64) -> Change {
    let [first, second] = &pair.samples;
    let medians = (median(first), median(second));
    let up = medians.1 > medians.0;
    let worse = match pair.before.better {
        Better::Less => up,
        Better::More => medians.1 < medians.0,
        Better::Neither => false,
    };
    let size = (medians.1 - medians.0).abs();
    let matters = size > 0.0 && size >= effect * medians.0.abs();
    let p = match (pair.is_exact(), size > 0.0) {
        (true, _) => f64::NAN,
        (false, true) => tested(second, first, up),
        (false, false) => 1.0,
    };
    let outcome = if !pair.is_exact() && least_p(first.len(), second.len()) > chance {
        Outcome::TooFew
    } else if !matters || p > chance {
        Outcome::Same
    } else if worse {
        Outcome::Regression
    } else {
        Outcome::Better
    };
    let (beside, beyond) = pair.beside.clone().unzip();
    Change {
        figure: String::new(),
        beside,
        beyond: beyond.unwrap_or_default(),
        goal: None,
        medians,
        p,
        outcome,
    }
}

/// The chance that samples lie so far above (or below) others without being of another kind. By the
/// normal approximation, which is the stricter one for few samples: statrs 0.19's exact one gives the
/// complement of it when the first has no more samples than the second.
fn tested(samples: &[f64], others: &[f64], above: bool) -> f64 {
    let side = if above {
        Alternative::Greater
    } else {
        Alternative::Less
    };
    let method = MannWhitneyUMethod::AsymptoticInclContinuityCorrection;
    let tested = mannwhitneyu(samples, others, method, side);
    // Samples that are all alike have no variance to test with.
    tested.map_or(1.0, |(_, p)| if p.is_nan() { 1.0 } else { p })
}

/// The least chance that the test can name: all of one side below all of the other. Below four samples
/// the approximation is too bold.
fn least_p(first: usize, second: usize) -> f64 {
    if first.min(second) < 4 {
        return 1.0;
    }
    let ranks: Vec<f64> = (0..first + second).map(|rank| rank as f64).collect();
    let (low, high) = ranks.split_at(first);
    tested(high, low, true)
}

fn warnings(before: &Run, after: &Run) -> Vec<String> {
    let (one, other) = (&before.machine, &after.machine);
    let mut warnings = Vec::new();
    for (what, first, second) in [
        ("suite", &before.suite, &after.suite),
        ("processor", &one.cpu, &other.cpu),
        ("kernel", &one.kernel, &other.kernel),
        ("compiler", &one.rustc, &other.rustc),
    ] {
        if first != second {
            warnings.push(format!("another {what}: {first}, then {second}"));
        }
    }
    for (which, run) in [("the first", before), ("the second", after)] {
        for only in &run.only {
            warnings.push(format!("{which} is only of a part: {only}"));
        }
    }
    if one.release != other.release {
        warnings.push("only one is a release build".to_owned());
    }
    for baseline in &before.baselines {
        let mut others = after.baselines.iter();
        if let Some(other) = others.find(|other| other.name == baseline.name)
            && other.version != baseline.version
        {
            warnings.push(format!(
                "another {}: {}, then {}",
                baseline.name, baseline.version, other.version
            ));
        }
    }
    warnings
}

impl Comparison {
    /// What they say together.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let has = |outcomes: &[Outcome]| {
            let mut all = self.changes.iter();
            all.any(|change| outcomes.contains(&change.outcome))
        };
        let bad = [
            Outcome::Regression,
            Outcome::GoalLost,
            Outcome::GoalLoosened,
            Outcome::GoalGone,
        ];
        if has(&bad) {
            Answer::Worse
        } else if has(&[Outcome::TooFew]) || self.changes.is_empty() {
            Answer::CantTell
        } else {
            Answer::NotWorse
        }
    }

    /// Whether anything became worse.
    #[must_use]
    pub fn is_worse(&self) -> bool {
        self.answer() == Answer::Worse
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "Not quite comparable: {warning}.")?;
        }
        writeln!(
            f,
            "\n| figure | before | after | change | p | |\n|---|---:|---:|---:|---:|---|"
        )?;
        for change in &self.changes {
            let (before, after) = change.medians;
            let mut name = change.figure.clone();
            match &change.beside {
                Some(beside) if change.beyond => {
                    write!(name, ", beyond {beside}, as a part of it")?
                }
                Some(beside) => write!(name, ", over {beside}")?,
                None => {}
            }
            if let Some(goal) = &change.goal {
                write!(name, ", goal {goal}")?;
            }
            let by = (after - before) / before.abs() * 100.0;
            let by = if by.is_finite() {
                format!("{by:+.1} %")
            } else {
                String::new()
            };
            writeln!(
                f,
                "| {name} | {} | {} | {by} | {} | {} |",
                number(before),
                number(after),
                number(change.p),
                change.outcome
            )?;
        }
        for one in &self.alone {
            writeln!(f, "\nOnly in one run: {one}.")?;
        }
        let answer = match self.answer() {
            Answer::NotWorse => "Not worse",
            Answer::Worse => "Worse",
            Answer::CantTell => "Can't tell",
        };
        if self.changes.is_empty() {
            writeln!(f, "\nNothing could be compared.")?;
        }
        write!(
            f,
            "\n{answer}: Mann-Whitney U, one-sided, a chance of {} of a false alarm over all figures, \
             changes of {} % or more.",
            self.rules.chance,
            self.rules.effect * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{least_p, tested};

    /// Of all 252 ways to deal ten samples to two runs, one has all of the first below the second; the
    /// approximation must not be below that, or it would see regressions that are none.
    #[test]
    fn p_is_never_below_the_exact_one() {
        let (low, high) = ([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0]);
        let p = tested(&high, &low, true);
        assert!((1.0 / 252.0..0.01).contains(&p), "{p}");
        assert!(tested(&high, &low, false) > 0.99);
        assert!((1.0 / 184_756.0..1e-4).contains(&least_p(10, 10)));
        assert!((1.0 / 70.0..0.02).contains(&least_p(4, 4)));
        assert_eq!(least_p(3, 9), 1.0);
        assert_eq!(tested(&[1.0; 5], &[1.0; 5], true), 1.0);
    }
}
