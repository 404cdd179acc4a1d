//! Reading values where they stand.

use std::fs::File;

use anyhow::{Context, Result};

use super::disk::Disk;
use super::format::Op;
use super::index::Spot;

/// How much is read at once, bytes: what is read next mostly stands next.
const WINDOW: usize = 64 << 10;

/// Reads ops, best in the log's order.
pub(crate) struct Reader<'a> {
    disk: &'a Disk,
    file: Option<(u32, File)>,
    window: Vec<u8>,
    /// Where in the file the window begins.
    begin: u64,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(disk: &'a Disk) -> Reader<'a> {
        Reader {
            disk,
            file: None,
            window: Vec::new(),
            begin: 0,
        }
    }

    /// The op that stands there.
    ///
    /// # Errors
    /// The disk, or it is no more what was written.
    pub(crate) fn op(&mut self, spot: Spot) -> Result<Op<'_>> {
        let path = || self.disk.path(&Disk::name(spot.file));
        let failed = || format!("read {} at {}", path().display(), spot.at);
        let (at, length) = (u64::from(spot.at), spot.length as usize);
        let here = |file: &Option<(u32, File)>| file.as_ref().map(|(number, _)| *number);
        if here(&self.file) != Some(spot.file) {
            let file = self.disk.open_to_read(spot.file).with_context(failed)?;
            self.file = Some((spot.file, file));
            self.window.clear();
        }
        let inside = |begin: u64, window: &[u8]| {
            let from = usize::try_from(at.checked_sub(begin)?).ok()?;
            (window.len().checked_sub(from)? >= length).then_some(from)
        };
        if inside(self.begin, &self.window).is_none()
            && let Some((_, file)) = &self.file
        {
            self.window.resize(length.max(WINDOW), 0);
            let filled = self.disk.read_at(file, &mut self.window, at);
            let filled = filled.inspect_err(|_| self.window.clear());
            self.window.truncate(filled.with_context(failed)?);
            self.begin = at;
        }
        let from = inside(self.begin, &self.window);
        let op = from.and_then(|from| Op::first(&self.window[from..from + length]));
        op.with_context(|| format!("{}: what was written there is damaged", failed()))
    }
}
