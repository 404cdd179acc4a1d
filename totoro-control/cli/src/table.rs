//! Answers for people: aligned columns, nothing that a terminal would obey.

use std::io;

use unicode_width::UnicodeWidthStr as _;

use crate::out;

/// A table that is printed when it is complete.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this head.
    pub fn new<const N: usize>(head: [impl Into<String>; N]) -> Self {
        Table::of(head)
    }

    /// The same, where the number of columns is not known here.
    pub fn of(head: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Table {
            rows: vec![head.into_iter().map(Into::into).collect()],
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.push(cells.into());
    }

    /// Adds a row, of as many cells as the head has.
    pub fn push(&mut self, cells: Vec<String>) {
        // Labels and addresses come from others: control characters could repaint the terminal.
        let clean = |cell: String| cell.chars().filter(|symbol| !symbol.is_control()).collect();
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// Prints it.
    ///
    /// # Errors
    /// See [`out::write`].
    pub fn print(&self) -> io::Result<()> {
        out::text(&self.render())
    }

    /// The table as text.
    #[must_use]
    pub fn render(&self) -> String {
        self.lines().into_iter().map(|line| line + "\n").collect()
    }

    /// Its lines, in columns as wide as a terminal shows them: a Chinese label takes twice the place of
    /// a Latin one.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| self.rows.iter().map(|row| row[column].width()).max();
        let widths: Vec<usize> = (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - cell.width() + 2));
            }
            line.trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
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

    #[test]
    fn columns_hold_in_both_scripts() {
        let mut table = Table::new(["名称", "B"]);
        table.push(vec!["n".to_owned(), "1".to_owned()]);
        assert_eq!(table.lines(), ["名称  B", "n     1"]);
    }
}
