//! Answers for people: aligned columns, nothing that a terminal would obey.

use serde::Serialize;

use super::{CliError, out};

/// A table that is printed when it is complete.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(head: [&str; N]) -> Self {
        Table {
            rows: vec![head.map(str::to_owned).to_vec()],
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        // Labels and addresses come from others: control characters could repaint the terminal.
        let clean = |cell: String| cell.chars().filter(|symbol| !symbol.is_control()).collect();
        self.rows.push(cells.map(clean).to_vec());
    }

    pub(super) fn print(&self) -> Result<(), CliError> {
        out::text(&self.render())
    }

    fn render(&self) -> String {
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
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, &width)| format!("{cell:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Prints an answer as JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| CliError::Failed(format!("cannot write JSON: {error}")))?;
    out::line(text)
}

/// A value as it stands in JSON, without quotes: `online`, `active`.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_and_harmless() {
        let mut table = Table::new(["ID", "NAME"]);
        table.row(["n-1".to_owned(), "a\u{1b}[2J".to_owned()]);
        assert_eq!(table.render(), "ID   NAME\nn-1  a[2J\n");
    }
}
