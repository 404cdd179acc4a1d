//! What is printed, and how: for people or as JSON, in one language. Nothing that others wrote goes to
//! a terminal uncleaned.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;
use unicode_width::UnicodeWidthStr as _;

use crate::error::Error;
use crate::lang::{Lang, say};
use crate::told::Told;

/// How a command speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    pub(super) lang: Lang,
    pub(super) json: bool,
}

/// An error, for programs.
#[derive(Serialize)]
struct Failed<'a> {
    event: &'static str,
    code: &'a str,
    what: String,
    next: String,
    exit_code: u8,
}

impl Output {
    pub(super) const fn new(lang: Lang, json: bool) -> Self {
        Output { lang, json }
    }

    /// A line on standard output. Whoever reads it may be gone.
    pub(super) fn line(self, text: &str) {
        writeln!(std::io::stdout().lock(), "{text}").ok();
    }

    /// A value as one line of JSON.
    pub(super) fn json_line(self, value: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(value) {
            self.line(&text);
        }
    }

    /// A value as JSON for people's eyes, too.
    pub(super) fn json(self, value: &impl Serialize) {
        if let Ok(text) = serde_json::to_string_pretty(value) {
            self.line(&text);
        }
    }

    /// Why a command ended, and the next step; on standard error for people.
    pub(super) fn error(self, error: &Error) {
        let code = match error {
            Error::Refused(told) => told.code.as_str(),
            _ => "",
        };
        let (what, next) = (error.what(self.lang), error.next(self.lang));
        if self.json {
            self.json_line(&Failed {
                event: "failed",
                code,
                what,
                next,
                exit_code: error.exit_code(),
            });
            return;
        }
        self.failed(code, &what, &next);
    }

    /// A refusal, as [`Output::error`] prints one.
    pub(super) fn refusal(self, told: &Told) {
        self.failed(&told.code, &told.what(self.lang), &told.next(self.lang));
    }

    fn failed(self, code: &str, what: &str, next: &str) {
        let code = match code {
            "" => String::new(),
            code => format!("{code}: "),
        };
        let next = self.next(next);
        writeln!(std::io::stderr().lock(), "totoro: {code}{what}\n  {next}").ok();
    }

    /// A next step.
    pub(super) fn next(self, next: &str) -> String {
        say!(self.lang, "next: {next}", "下一步：{next}")
    }

    /// Whether a person looks at standard output.
    pub(super) fn is_live(self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }
}

/// A table that is printed when it is complete.
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    pub(super) fn new<const N: usize>(head: [String; N]) -> Self {
        Table(vec![head.to_vec()])
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.to_vec());
    }

    /// Its lines, in columns as wide as a terminal shows them.
    pub(super) fn lines(&self) -> Vec<String> {
        let columns = self.0.first().map_or(0, Vec::len);
        let width = |column: usize| self.0.iter().map(|row| row[column].width()).max();
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
        self.0.iter().map(line).collect()
    }
}

/// Bytes, for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    match unit {
        0 => format!("{count} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A span of time, for people: `3 s`, `5 min`, `2 h 5 min`, `3 d 2 h`.
pub(super) fn span(seconds: u64, lang: Lang) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if minutes == 0 {
        return say!(lang, "{seconds} s", "{seconds} 秒");
    }
    if hours == 0 {
        return say!(lang, "{minutes} min", "{minutes} 分钟");
    }
    let (minutes, rest) = (minutes % 60, hours % 24);
    if days == 0 {
        return say!(
            lang,
            "{hours} h {minutes} min",
            "{hours} 小时 {minutes} 分钟"
        );
    }
    say!(lang, "{days} d {rest} h", "{days} 天 {rest} 小时")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_hold_in_both_scripts() {
        let mut table = Table::new(["名称".to_owned(), "B".to_owned()]);
        table.row(["n".to_owned(), "1".to_owned()]);
        assert_eq!(table.lines(), ["名称  B", "n     1"]);
    }

    #[test]
    fn figures_for_people() {
        assert_eq!(
            (bytes(1023), bytes(1536)),
            ("1023 B".to_owned(), "1.5 KiB".to_owned())
        );
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        let spans = [5, 65, 3 * 3600, 90_000].map(|seconds| span(seconds, Lang::En));
        assert_eq!(spans, ["5 s", "1 min", "3 h 0 min", "1 d 1 h"]);
        assert_eq!(span(90_000, Lang::Zh), "1 天 1 小时");
    }
}
