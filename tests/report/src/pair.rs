//! A figure in two runs, and the samples by which it is compared.

use crate::figure::{Against, Figure};

/// The samples of one figure in both runs, as they are compared.
pub(crate) struct Pair<'a> {
    pub(crate) before: &'a Figure,
    pub(crate) after: &'a Figure,
    /// The baseline, and whether that is nothing but what our own cost lies over.
    pub(crate) beside: Option<(String, bool)>,
    pub(crate) samples: [Vec<f64>; 2],
}

impl Pair<'_> {
    /// Whether there is no noise to tell it from: whatever is more, is more.
    pub(crate) fn is_exact(&self) -> bool {
        self.before.exact && self.after.exact && self.beside.is_none()
    }
}

/// Whatever both runs measured a figure beside first; else the figure itself. Of what is more than an empty
/// baseline that more is compared, as a part of the baseline, so that a slower machine is no regression there
/// either: what both have in common would dilute it.
pub(crate) fn pair<'a>(before: &'a Figure, after: &'a Figure) -> Pair<'a> {
    let beside = before.against.iter().find_map(|against| {
        let mut others = after.against.iter();
        let other = others.find(|other| other.baseline == against.baseline)?;
        let (mut first, mut second) = (ratios(before, against)?, ratios(after, other)?);
        // An earlier run may not say so.
        let is_empty = against.is_empty() || other.is_empty();
        if is_empty {
            let all = first.iter_mut().chain(&mut second);
            all.for_each(|ratio| *ratio -= 1.0);
        }
        Some((against.baseline.clone(), is_empty, [first, second]))
    });
    let (beside, samples) = match beside {
        Some((baseline, is_empty, samples)) => (Some((baseline, is_empty)), samples),
        None => (None, [before.samples.clone(), after.samples.clone()]),
    };
    Pair {
        before,
        after,
        beside,
        samples,
    }
}

/// The rounds' own. What is a difference may be less than nothing, and a ratio to that is no size.
fn ratios(figure: &Figure, against: &Against) -> Option<Vec<f64>> {
    let rounds = figure.samples.iter().zip(&against.samples);
    let ratios: Vec<f64> = rounds.map(|(ours, theirs)| ours / theirs).collect();
    let usable = against.samples.len() == figure.samples.len()
        && against.samples.iter().all(|theirs| *theirs > 0.0)
        && ratios.iter().all(|ratio| ratio.is_finite());
    usable.then_some(ratios)
}
