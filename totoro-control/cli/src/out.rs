//! Writing results. `println!` would panic at a reader that has gone and at a full disk.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Writes to the standard output; `false` when nobody reads it any more, which is no failure.
///
/// # Errors
/// It cannot be written, as on a full disk. The error says so by itself: `cannot write: …`.
pub fn write(bytes: impl AsRef<[u8]>) -> io::Result<bool> {
    write_to(&mut io::stdout().lock(), bytes.as_ref())
}

/// Writes a text with its line feeds. What a command does beside it goes on when nobody reads it.
///
/// # Errors
/// See [`write`].
pub fn text(text: &str) -> io::Result<()> {
    write(text).map(drop)
}

/// Writes one line.
///
/// # Errors
/// See [`write`].
pub fn line(line: impl Display) -> io::Result<()> {
    text(&format!("{line}\n"))
}

/// A line on the standard error: where that has gone there is nobody to tell.
pub fn warn(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn write_to(out: &mut impl Write, bytes: &[u8]) -> io::Result<bool> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("cannot write: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_is_no_failure_and_a_full_disk_is() {
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(write_to(&mut writer, b"x\n").unwrap());
        drop(reader);
        assert!(!write_to(&mut writer, b"x\n").unwrap());
        let mut full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let error = write_to(&mut full, b"x\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert!(error.to_string().starts_with("cannot write: "), "{error}");
    }
}
