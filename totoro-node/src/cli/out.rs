//! Writing results. Whoever reads them may have gone (`| head`), and the disk behind them may be full:
//! `println!` would panic at both.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use anyhow::{Context as _, Result};

/// Writes to the standard output; `false` when nobody reads it any more, which is no failure.
pub(super) fn write(text: &str) -> Result<bool> {
    write_to(&mut std::io::stdout().lock(), text.as_bytes())
}

/// Writes a text with its line feeds. What a command does beside it goes on when nobody reads it.
pub(super) fn text(text: &str) -> Result<()> {
    write(text).map(drop)
}

/// Writes one line.
pub(super) fn line(line: impl Display) -> Result<()> {
    text(&format!("{line}\n"))
}

/// A line on the standard error: where that has gone there is nobody to tell.
pub(super) fn warn(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

fn write_to(out: &mut impl Write, bytes: &[u8]) -> Result<bool> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        assert!(write_to(&mut writer, b"x\n").unwrap());
        drop(reader);
        assert!(!write_to(&mut writer, b"x\n").unwrap());
        let mut full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let error = write_to(&mut full, b"x\n").unwrap_err();
        assert!(
            format!("{error:#}").starts_with("cannot write: "),
            "{error:#}"
        );
    }
}
