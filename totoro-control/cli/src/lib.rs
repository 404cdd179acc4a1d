//! How Totoro's command lines print. Whoever reads may have gone (`| head`), which ends a command
//! quietly; the disk behind may be full, which is an error; and what others wrote is in it, which a
//! terminal must not obey. And how they read what they share, spans of time and when something
//! ends, and how they show it: events of the trail. And which of the log's lines are wanted.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when the reader has gone or the disk is full; `out` does not"
)]

mod end;
pub mod event;
mod logs;
pub mod out;
mod table;

pub use end::{End, back, end, span_ms};
pub use logs::log_filter;
pub use table::Table;

use std::io;

use serde::Serialize;

/// Prints an answer as JSON, for programs and for eyes.
///
/// # Errors
/// It cannot be written.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    out::line(serde_json::to_string_pretty(value)?)
}

/// A value as it stands in JSON, without quotes: `online`, `active`.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn words_have_no_quotes() {
        assert_eq!(word(&"online"), "online");
        assert_eq!(word(&[1, 2]), "[1,2]");
    }
}
