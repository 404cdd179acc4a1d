//! Figures of one way of serving after the other, a part of the run each.

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

    /// A figure with a goal.
    pub(crate) fn add_goal(
        &mut self,
        what: &'static str,
        value: f64,
        unit: &'static str,
        goal: Goal,
    ) {
        self.add_with_goal(what, value, unit, Some(goal));
    }

    /// How many heartbeats were answered a second, of those that were due, and how many failed; how many watchers
    /// were lost. What they cost says nothing where they were not served.
    pub(crate) fn served(&mut self, (answered, due): (f64, f64), failed: f64, lost: f64) {
        let most = Goal::at_least(0.99 * due);
        self.add_goal("heartbeats answered", answered, "/s", most);
        self.add_goal("heartbeats failed", failed, "", Goal::at_most(0.0));
        self.add_goal("watchers lost", lost, "", Goal::at_most(0.0));
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

/// MiB.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn nodes_that_were_not_served_miss_goals() {
        let met = |answered, failed, lost| {
            let mut report = Report::new(10_000, 1);
            report.served((answered, 666.7), failed, lost);
            report.run().goals().met
        };
        assert_eq!(met(666.6, 0.0, 0.0), 3);
        assert_eq!(met(659.0, 0.0, 0.0), 2);
        assert_eq!(met(666.6, 1.0, 0.0), 2);
        assert_eq!(met(0.0, 10_000.0, 10_000.0), 0);
    }
}
