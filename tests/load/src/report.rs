//! Figures, as a table for `docs/benchmarks.md` or as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// Figures by name, in the order in which they came; one column per way of serving.
#[derive(Default)]
pub(crate) struct Report {
    columns: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    what: &'static str,
    unit: &'static str,
    goal: Option<f64>,
    /// One per column.
    values: Vec<Option<f64>>,
}

impl Report {
    /// What comes next stands in this column.
    pub(crate) fn column(&mut self, name: &str) {
        self.columns.push(name.to_owned());
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
        self.add_with_goal(what, value, unit, Some(goal));
    }

    fn add_with_goal(
        &mut self,
        what: &'static str,
        value: f64,
        unit: &'static str,
        goal: Option<f64>,
    ) {
        let column = self.columns.len() - 1;
        eprintln!("  {:<10} {what}: {value:.1} {unit}", self.columns[column]);
        let at = self.rows.iter().position(|row| row.what == what);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                what,
                unit,
                goal,
                values: Vec::new(),
            });
            self.rows.len() - 1
        });
        self.rows[at].values.resize(column, None);
        self.rows[at].values.push(Some(value));
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        let mut all = Map::new();
        for row in &self.rows {
            let values = self.columns.iter().zip(&row.values);
            let values: Map<String, Value> = values
                .map(|(name, value)| (name.clone(), json!(value)))
                .collect();
            all.insert(
                row.what.to_owned(),
                json!({ "unit": row.unit, "goal": row.goal, "is": values }),
            );
        }
        Value::Object(all)
    }

    /// As a table in Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("| what | {} | goal | |\n|---|", self.columns.join(" | "));
        text.push_str(&"---:|".repeat(self.columns.len()));
        text.push_str("---:|---|\n");
        for row in &self.rows {
            let shown = |value: &Option<f64>| {
                value.map_or(String::new(), |value| format!("{value:.1} {}", row.unit))
            };
            let mut values: Vec<String> = row.values.iter().map(shown).collect();
            values.resize(self.columns.len(), String::new());
            let goal = row
                .goal
                .map_or(String::new(), |goal| format!("≤ {goal} {}", row.unit));
            let misses = |value: &Option<f64>| {
                value
                    .zip(row.goal)
                    .is_some_and(|(value, goal)| value > goal)
            };
            let missed = if row.values.iter().any(misses) {
                "**missed**"
            } else {
                ""
            };
            text.push_str(&format!(
                "| {} | {} | {goal} | {missed} |\n",
                row.what,
                values.join(" | ")
            ));
        }
        text
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

    #[test]
    fn a_missed_goal_is_said() {
        let mut report = Report::default();
        report.column("plain");
        report.add_goal("cold start", 12.0, "s", 10.0);
        report.add("resident", 3.0, "MiB");
        let table = report.table();
        assert!(
            table.contains("| cold start | 12.0 s | ≤ 10 s | **missed** |"),
            "{table}"
        );
        assert!(table.contains("| resident | 3.0 MiB |  |  |"), "{table}");
    }
}
