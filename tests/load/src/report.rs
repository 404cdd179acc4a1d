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

/// MiB.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
