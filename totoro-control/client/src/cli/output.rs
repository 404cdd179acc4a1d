//! What is printed, and how: for people or as JSON, in one language. Nothing that others wrote goes to
//! a terminal uncleaned.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use totoro_cli::{Table, out};

use crate::error::Error;
use crate::lang::{Lang, say};
use crate::told::Told;

/// What could not be written first. A tunnel goes on without its words; the command fails at its end.
static UNWRITTEN: Mutex<Option<std::io::Error>> = Mutex::new(None);

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

    /// A line on standard output. Whoever reads it may be gone; that its disk is full is told by
    /// [`unwritten`].
    pub(super) fn line(self, text: &str) {
        if let Err(error) = out::line(text) {
            let mut first = UNWRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        }
    }

    /// A table, for people.
    pub(super) fn table(self, table: &Table) {
        for line in table.lines() {
            self.line(&line);
        }
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
        out::warn(format_args!("totoro: {code}{what}\n  {next}"));
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

/// What kept a line from being written: a full disk behind the standard output.
pub(super) fn unwritten() -> Option<std::io::Error> {
    UNWRITTEN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
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
