//! How full the kernel's tables are.

use anyhow::Result;
use serde::Serialize;

use super::{Row, Source};
use crate::kernel::{Fill, Full};

#[derive(Serialize)]
pub(super) struct TableLine {
    table: &'static str,
    /// `null`: they can't be counted.
    entries: Option<u64>,
    /// `null`: no bound of its own.
    max: Option<u64>,
    percent: Option<u64>,
    memory_bytes: Option<u64>,
    when_full: Full,
}

impl From<Fill> for TableLine {
    fn from(fill: Fill) -> TableLine {
        TableLine {
            table: fill.table,
            entries: fill.entries,
            max: fill.max,
            percent: fill.percent(),
            memory_bytes: fill.memory,
            when_full: fill.full,
        }
    }
}

impl Row for TableLine {
    const HEAD: &'static [&'static str] = &["TABLE", "ENTRIES", "MAX", "%", "BYTES"];

    fn cells(self) -> Vec<String> {
        let number =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
        vec![
            self.table.to_owned(),
            number(self.entries),
            number(self.max),
            number(self.percent),
            number(self.memory_bytes),
        ]
    }

    /// Nobody's; [`super::Args`] takes no tenant with them.
    fn tenant(&self) -> &str {
        ""
    }
}

impl Source<'_> {
    /// The fullest first, those alike in the order of docs/bpf-maps.md.
    pub(super) fn tables(&self) -> Result<Vec<TableLine>> {
        Ok(lines(self.inspector.fill()?))
    }
}

fn lines(mut fill: Vec<Fill>) -> Vec<TableLine> {
    fill.sort_by_key(|one| std::cmp::Reverse(one.percent()));
    fill.into_iter().map(TableLine::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_comes_first() {
        let fill = |table, entries, max| Fill {
            table,
            entries,
            max,
            memory: Some(4096),
            full: Full::Leases,
        };
        let shown: Vec<Vec<String>> = lines(vec![
            fill("SOCKETS", None, None),
            fill("PORTS", Some(1), Some(100)),
            fill("CONNS", Some(90), Some(100)),
            fill("USAGE", Some(1), Some(100)),
        ])
        .into_iter()
        .map(Row::cells)
        .collect();
        assert_eq!(
            shown,
            [
                ["CONNS", "90", "100", "90", "4096"],
                ["PORTS", "1", "100", "1", "4096"],
                ["USAGE", "1", "100", "1", "4096"],
                ["SOCKETS", "-", "-", "-", "4096"],
            ]
        );
    }
}
