//! What became of the goals that a run had, in another: kept, missed, loosened, or gone.
//!
//! Each is judged by what it asked for at first. A goal that asks less now, or is not judged any more, would hide
//! what became worse.

use crate::compare::{Change, Outcome};
use crate::figure::{Against, Figure};
use crate::goal::{Goal, Verdict};
use crate::stats::median;

/// All changes for the worse, one for each goal and what became of it.
pub(crate) fn goals(before: &Figure, after: Option<&Figure>) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    for goal in &before.goals {
        all.extend(own(goal, before, after));
    }
    for against in &before.against {
        all.extend(beside(against, before, after));
    }
    all
}

fn judged(verdict: Verdict) -> bool {
    verdict != Verdict::NotMeasured
}

/// What became of a goal of a figure by itself.
fn own(goal: &Goal, before: &Figure, after: Option<&Figure>) -> Vec<Change> {
    let was = goal.verdict(&before.samples);
    let others = after.into_iter().flat_map(|after| &after.goals);
    let others: Vec<&Goal> = others.filter(|one| one.is_as_strict_as(goal)).collect();
    let strictest = others.iter().find(|one| !one.is_looser(goal));
    let found = Found {
        figure: before.called(),
        beside: None,
        asked: goal.to_string(),
        asks: strictest.or(others.first()).map(ToString::to_string),
        is_looser: strictest.is_none(),
        medians: (
            median(&before.samples),
            after.map_or(f64::NAN, |after| median(&after.samples)),
        ),
        was,
        is: after.map_or(Verdict::NotMeasured, |after| goal.verdict(&after.samples)),
    };
    found.changes()
}

/// The same of one beside a baseline.
fn beside(against: &Against, before: &Figure, after: Option<&Figure>) -> Vec<Change> {
    let Some(goal) = &against.goal else {
        return Vec::new();
    };
    // Of the same baseline, which may be there without a goal.
    let others = after.into_iter().flat_map(|after| {
        let others = after.against.iter();
        others.map(move |other| (&after.samples, other))
    });
    let others = others.filter(|(_, other)| other.baseline == against.baseline);
    let others: Vec<_> = others.collect();
    let mut asks = others.iter().filter_map(|(_, other)| {
        let other = other.goal.as_ref()?;
        Some((other, other.is_looser(goal)?))
    });
    let asks = asks
        .clone()
        .find(|(_, is_looser)| !is_looser)
        .or_else(|| asks.next());
    let other = others.first();
    let found = Found {
        figure: before.called(),
        beside: Some(against.baseline.clone()),
        asked: goal.to_string(),
        asks: asks.map(|(other, _)| other.to_string()),
        is_looser: asks.is_some_and(|(_, is_looser)| is_looser),
        medians: (
            goal.is(&before.samples, &against.samples),
            other.map_or(f64::NAN, |(ours, other)| goal.is(ours, &other.samples)),
        ),
        was: goal.verdict(&before.samples, &against.samples),
        is: other.map_or(Verdict::NotMeasured, |(ours, other)| {
            goal.verdict(ours, &other.samples)
        }),
    };
    found.changes()
}

/// A goal of one run, and what the other has in its place.
struct Found {
    figure: String,
    beside: Option<String>,
    /// What it asked for, and what is asked for in its place, if anything.
    asked: String,
    asks: Option<String>,
    is_looser: bool,
    medians: (f64, f64),
    /// How it was judged; and how it is, by what it asked for.
    was: Verdict,
    is: Verdict,
}

impl Found {
    fn changes(self) -> Vec<Change> {
        let change = |outcome, goal| Change {
            figure: self.figure.clone(),
            beside: self.beside.clone(),
            beyond: false,
            goal: Some(goal),
            medians: self.medians,
            p: f64::NAN,
            outcome,
        };
        let mut all = Vec::new();
        match &self.asks {
            Some(_) if judged(self.was) && !judged(self.is) => {
                all.push(change(Outcome::GoalGone, self.asked.clone()));
            }
            None if judged(self.was) => all.push(change(Outcome::GoalGone, self.asked.clone())),
            Some(asks) if self.is_looser => {
                let both = format!("{}, then {asks}", self.asked);
                all.push(change(Outcome::GoalLoosened, both));
            }
            _ => {}
        }
        if self.was == Verdict::Met && self.is == Verdict::Missed {
            all.push(change(Outcome::GoalLost, self.asked.clone()));
        }
        all
    }
}
