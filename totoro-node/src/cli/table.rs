//! Tables for people: aligned columns, nothing that a terminal would obey.

use super::out;

/// A table that is printed when it is complete.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(head: [&str; N]) -> Self {
        Table::of(&head)
    }

    /// A table with this head.
    pub(super) fn of(head: &[&str]) -> Self {
        Table {
            rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()],
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.push(cells.into());
    }

    /// Adds a row, of as many cells as the head has.
    pub(super) fn push(&mut self, cells: Vec<String>) {
        // Names and addresses come from others: control characters could repaint the terminal.
        let clean = |cell: String| cell.chars().filter(|symbol| !symbol.is_control()).collect();
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        out::text(&self.render())
    }

    /// The table as text.
    pub(super) fn render(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints an answer as JSON.
pub(super) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    out::line(serde_json::to_string_pretty(value)?)
}
