//! Goals that one run could judge and another can't.

use crate::compare::{Change, Outcome};
use crate::figure::Figure;
use crate::goal::{Goal, Verdict};
use crate::stats::median;

/// What of a figure's goals could be judged, and can't be in another run: one change for all of its own, and
/// one for each baseline.
pub(crate) fn goals_gone(before: &Figure, after: Option<&Figure>) -> Vec<Change> {
    let gone = |beside, median| Change {
        figure: before.called(),
        beside,
        medians: (median, f64::NAN),
        p: 1.0,
        outcome: Outcome::GoalGone,
    };
    let judged = |verdict| verdict != Verdict::NotMeasured;
    let mut all = Vec::new();
    let stands = |goal: &&Goal| {
        // A stricter one, for each sample, is in place of one for the median.
        let same = |other: &&Goal| other.bound == goal.bound && other.each >= goal.each;
        after.is_some_and(|after| {
            let mut others = after.goals.iter().filter(same);
            others.any(|other| judged(other.verdict(&after.samples)))
        })
    };
    let mut own = before.goals.iter();
    if own.any(|goal| judged(goal.verdict(&before.samples)) && !stands(&goal)) {
        all.push(gone(None, median(&before.samples)));
    }
    let beside = before.against.iter();
    for against in beside.filter(|one| one.verdict(before).is_some_and(judged)) {
        let stands = after.is_some_and(|after| {
            let mut others = after.against.iter();
            others.any(|other| {
                other.baseline == against.baseline && other.verdict(after).is_some_and(judged)
            })
        });
        if !stands {
            let ratio = against.ratio(before).unwrap_or(f64::NAN);
            all.push(gone(Some(against.baseline.clone()), ratio));
        }
    }
    all
}
