//! Figures of one way of serving after the other, a part of the run each.

use std::time::Duration;

use totoro_report::{Better, Figure, Goal, Run};

/// Figures in the order in which they came.
pub(crate) struct Report {
    run: Run,
    /// How many nodes and invites there are: others' figures are not these.
    size: String,
    column: String,
}

impl Report {
    /// An empty one, which begins now.
    pub(crate) fn new(nodes: usize, invites: usize) -> Self {
        Report {
            run: Run::new("scale"),
            size: format!("{nodes} nodes, {invites} invites"),
            column: String::new(),
        }
    }

    /// What comes next is of this way of serving.
    pub(crate) fn column(&mut self, name: &str) {
        name.clone_into(&mut self.column);
    }

    /// A figure of the current column.
    pub(crate) fn add(&mut self, what: &'static str, value: f64, unit: &'static str) {
        self.add_with_goal(what, value, unit, None);
    }

    /// A figure that should not be larger than the goal.
    pub(crate) fn add_goal(
        &mut self,
        what: &'static str,
        value: f64,
        unit: &'static str,
        goal: f64,
    ) {
        self.add_with_goal(what, value, unit, Some(Goal::at_most(goal)));
    }

    fn add_with_goal(
        &mut self,
        what: &'static str,
        value: f64,
        unit: &'static str,
        goal: Option<Goal>,
    ) {
        eprintln!("  {:<10} {what}: {value:.1} {unit}", self.column);
        let better = match unit {
            "/s" => Better::More,
            _ => Better::Less,
        };
        let part = format!("{}, {}", self.column, self.size);
        let mut figure = Figure::new(&part, what, unit, better, vec![0.0]);
        figure.goals.extend(goal);
        // Of no changes, or no heartbeats, there is none; a goal of theirs is not met.
        figure.samples = vec![value];
        figure.samples.retain(|value| value.is_finite());
        self.run.add(figure);
    }

    /// The run, for what else is to be said of it.
    pub(crate) fn run(&mut self) -> &mut Run {
        &mut self.run
    }
}

/// The value that so many percent of the sorted ones do not exceed, milliseconds.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted
        .get(at)
        .map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
}

/// MiB.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let of = |percent| percentile(&sorted, percent);
        assert_eq!((of(50), of(99), of(100)), (100.0, 198.0, 200.0));
        assert_eq!(percentile(&sorted[..1], 99), 1.0);
    }
}
