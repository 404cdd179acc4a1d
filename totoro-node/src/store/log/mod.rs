//! A log of what changed, and an index of where in it everything stands that lives.
//!
//! Its files `log.<number>` are written one after the other, each frame durable before the next.
//! [`format`] says what is in them, [`replay`] what a start makes of them. What no more lives goes
//! with the oldest file, after what still does was copied to the end ([`clean`]): always the oldest,
//! so that what removes something never goes before what it removes.
//!
//! A file is as long as it gets before anything is written to it, and one that is no more needed is
//! used again. So a sync has nothing to make durable but what was written.

mod ahead;
mod clean;
#[cfg(test)]
mod damage_tests;
mod disk;
#[cfg(test)]
pub(super) mod faults;
mod format;
#[cfg(test)]
mod full_tests;
#[doc(hidden)]
pub mod fuzz;
mod index;
mod look;
#[cfg(test)]
mod power_tests;
mod read;
mod replay;
#[cfg(test)]
pub(super) mod tests;

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};

use crate::spool::{HAD, Waiting};
use crate::store::META;
use ahead::Ahead;
use clean::Cursor;
use disk::{AHEAD, PART, RESERVE, SPARES};
use format::{Frame, HEAD, HEADER, Header};
use index::Index;

pub(crate) use disk::{Disk, files};
pub(crate) use format::{Kind, OP, Ops};
pub(crate) use index::Spot;
pub(crate) use look::Look;
pub(crate) use read::Reader;

/// How long things get, bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// A file is not written beyond this, but for a batch that is longer than that.
    pub(crate) file: u64,
    /// What a file has behind that, for what makes room on a full disk; and what a commit copies
    /// beside twice its own size.
    pub(crate) slack: u64,
    /// All files together, before any is cleaned that has something in it that lives.
    pub(crate) least: u64,
}

/// Small enough that the last of them, which nobody else may use, are no loss; long enough that their
/// beginning is not felt.
pub(crate) const SIZES: Sizes = Sizes {
    file: 2 << 20,
    slack: 64 << 10,
    least: 16 << 20,
};

/// What a frame takes beside copies and a commit's ops, bytes: heads, what is forgotten, and which
/// file is the oldest.
const AROUND: usize = HEADER + HEAD + 128;

/// The file that is written to.
struct Newest {
    number: u32,
    file: File,
    /// Up to where there are frames; 0 = it has no header yet.
    end: u64,
    /// How long it was made.
    length: u64,
}

/// A log, open.
pub(crate) struct Log {
    disk: Disk,
    sizes: Sizes,
    index: Index,
    newest: Newest,
    /// The number of the next frame.
    seq: u64,
    /// There may be a frame at the end that must not be there.
    torn: bool,
    /// Up to where the oldest file is copied.
    cursor: Cursor,
    /// Up to where events are forgotten here, and not yet on the disk.
    forgotten: Option<u64>,
    /// What is kept for a full disk, bytes.
    reserve: u64,
    /// Files to use again.
    spares: usize,
    /// The next file, under its name already.
    ahead: Option<Ahead>,
    /// The disk had no room.
    full: bool,
    /// What lives in the oldest file can't be read.
    stuck: bool,
}

impl Log {
    /// Opens the log in a directory, or begins one.
    ///
    /// # Errors
    /// It is damaged, or of a later version: then nothing was changed. Or the disk.
    pub(crate) fn open(dir: &Path, sizes: Sizes) -> Result<Log> {
        Log::on(Disk::under(dir), sizes)
    }

    /// The same on a disk that may fail.
    #[cfg(test)]
    pub(crate) fn flaky(dir: &Path, sizes: Sizes, faults: &faults::Faults) -> Result<Log> {
        let mut disk = Disk::under(dir);
        disk.faults = faults.clone();
        Log::on(disk, sizes)
    }

    fn on(disk: Disk, sizes: Sizes) -> Result<Log> {
        let (mut index, tail) = replay::replay(&disk)?;
        let length = sizes.file + sizes.slack;
        let tail = match tail {
            Some(tail) => tail,
            None => {
                // Of a log that was here before, whose batches have numbers that are to come.
                let spares = (0..SPARES).map(Disk::spare);
                for name in spares.chain([RESERVE.to_owned()]) {
                    let _ = disk.remove(&name);
                }
                disk.sync_names().context("sync the log's directory")?;
                disk.create(&Disk::name(1), length).context("begin a log")?;
                replay::Tail::FIRST
            }
        };
        index.oldest = index.oldest.max(1);
        let name = Disk::name(tail.file);
        let file = disk.open(tail.file).context("open the log")?;
        settle(&disk, &file, tail).context("sync the log")?;
        disk.sync_names().context("sync the log's directory")?;
        let newest = Newest {
            number: tail.file,
            file,
            end: tail.end,
            length: disk.length(&name),
        };
        let mut log = Log {
            reserve: Some(disk.length(RESERVE))
                .filter(|is| *is >= length)
                .unwrap_or(0),
            spares: (0..SPARES)
                .take_while(|nth| disk.length(&Disk::spare(*nth)) >= length)
                .count(),
            ahead: tail.ahead.then_some(Ahead::DURABLE),
            cursor: Cursor::begin(index.oldest),
            seq: tail.seq,
            disk,
            sizes,
            index,
            newest,
            torn: false,
            forgotten: None,
            full: false,
            stuck: false,
        };
        for part in [PART, AHEAD] {
            let _ = log.disk.remove(part);
        }
        let listed = log.disk.list().context("list the log")?;
        let oldest = log.index.oldest;
        for number in listed.into_iter().filter(|number| *number < oldest) {
            log.retire(number);
        }
        if let Err(error) = log.keep_reserve() {
            tracing::warn!(
                error = format!("{error:#}"),
                "no room is kept for a full disk"
            );
        }
        Ok(log)
    }

    /// What waits in the spool.
    pub(crate) const fn waiting(&self) -> &Waiting {
        &self.index.waiting
    }

    /// Where a record stands.
    pub(crate) fn find(&self, table: u8, key: &str) -> Option<Spot> {
        self.index.find(table, key.as_bytes())
    }

    /// Where all records of a table stand, in the log's order.
    pub(crate) fn all(&self, table: u8) -> Vec<Spot> {
        self.index.all(table)
    }

    /// Reads what stands somewhere.
    pub(crate) const fn reader(&self) -> Reader<'_> {
        Reader::new(&self.disk)
    }

    /// The same, to read beside what is written: what is not needed any more may be overwritten.
    pub(crate) fn disk(&self) -> Disk {
        self.disk.clone()
    }

    /// Makes ops durable, all or none.
    ///
    /// # Errors
    /// The disk; then nothing of them holds.
    pub(crate) fn commit(&mut self, ops: &Ops) -> Result<()> {
        let done = self.append(ops);
        if !done.as_ref().is_err_and(is_full) {
            return done;
        }
        self.full = true;
        match self.make_room(ops.bytes().len() as u64) {
            Ok(true) => self.append(ops),
            Ok(false) => done,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no room can be made");
                done
            }
        }
    }

    /// Forgets the events up to `seq`: at once here, and on the disk with what is written next. What
    /// a crash brings back is delivered again, which does no harm. Written at once where nothing may
    /// come next, and on a full disk, where there may be room to win.
    pub(crate) fn forget(&mut self, seq: u64) {
        self.index.forget(seq);
        self.forgotten = Some(seq);
        let mut done = Ok(());
        if self.full {
            done = self.make_room(0).map(drop);
        }
        if self.index.waiting.len() == 0 && self.forgotten.is_some() {
            done = done.and_then(|()| self.commit(&Ops::default()));
        }
        if let Err(error) = done {
            let error = format!("{error:#}");
            tracing::warn!(error, "what was delivered is not forgotten on the disk yet");
        }
    }

    /// Has what is forgotten be so on the disk, too.
    ///
    /// # Errors
    /// The disk.
    pub(crate) fn settle(&mut self) -> Result<()> {
        match self.forgotten {
            Some(_) => self.commit(&Ops::default()),
            None => Ok(()),
        }
    }

    fn append(&mut self, ops: &Ops) -> Result<()> {
        if self.reserve == 0 {
            // Its room is not for this.
            self.keep_reserve()?;
        }
        let length = ops.bytes().len();
        let mut frame = Frame::new(length + AROUND);
        // What is copied is as it was before all of this.
        let cursor = self.clean(length, frame.ops());
        self.put_forgotten(frame.ops());
        frame.ops().copy(ops.bytes());
        self.advance(cursor, &mut frame);
        let end = self.newest.end + (HEAD + frame.len()) as u64;
        if end > self.sizes.file && self.newest.end > 0 {
            self.rewind()?;
            self.turn(false)?;
        }
        self.write(frame, cursor)
    }

    /// Writes down what is forgotten.
    fn put_forgotten(&self, ops: &mut Ops) {
        if let Some(seq) = self.forgotten {
            let value = seq.to_string();
            ops.push(Kind::Put, META.number, HAD.as_bytes(), value.as_bytes());
        }
    }

    /// Says in a frame which the oldest file is that is needed once it is durable.
    fn advance(&self, cursor: Cursor, frame: &mut Frame) {
        let space = &self.index.space;
        let mut oldest = self.index.oldest;
        while oldest < self.newest.number
            && (space.is_dead(oldest) || cursor.is_through(oldest, space))
        {
            oldest += 1;
        }
        if oldest > self.index.oldest {
            let value = oldest.to_le_bytes();
            frame.ops().push(Kind::Oldest, 0, &[], &value);
        }
    }

    /// Writes a frame at the end, makes it durable, and takes it in; what lives in the oldest file
    /// is copied up to the cursor then.
    fn write(&mut self, mut frame: Frame, cursor: Cursor) -> Result<()> {
        self.rewind()?;
        let newest = &self.newest;
        let header = Header {
            number: newest.number,
            oldest: self.index.oldest,
            first: self.seq,
        };
        let header = (newest.end == 0).then_some(header);
        let bytes = frame
            .seal(self.seq, header)
            .context("a batch is too long")?;
        let end = newest.end + bytes.len() as u64;
        let written = self.disk.write(&newest.file, bytes, newest.end);
        let done = written.and_then(|()| self.disk.sync(&newest.file));
        if let Err(error) = done {
            self.torn = true;
            // Now, so that it is not there after the next start either, if that can be.
            let _ = self.rewind();
            return Err(error).context("write to the log");
        }
        self.seq += 1;
        self.newest.end = end;
        self.newest.length = self.newest.length.max(end);
        self.forgotten = None;
        let (before, ops) = (self.index.oldest, frame.payload());
        let at = end - ops.len() as u64;
        self.index.space.ends(self.newest.number, end);
        let taken = self.index.apply(ops, self.newest.number, at);
        taken.context("the log can't read what it wrote")?;
        self.cursor = cursor;
        for number in before..self.index.oldest {
            self.retire(number);
        }
        if self.cursor.file != self.index.oldest {
            self.cursor = Cursor::begin(self.index.oldest);
        }
        self.look_ahead();
        Ok(())
    }

    /// Takes back what a failed write may have left.
    fn rewind(&mut self) -> Result<()> {
        if !self.torn {
            return Ok(());
        }
        let Newest {
            file, end, length, ..
        } = &self.newest;
        let head = if *end == 0 { HEADER + HEAD } else { HEAD };
        let room = usize::try_from(length - end).unwrap_or(usize::MAX);
        let zeros = [0; HEADER + HEAD];
        // The pages are written again, whatever the kernel thinks that they are after a failed sync.
        let done = self.disk.cut(file, *length).and_then(|()| {
            self.disk.write(file, &zeros[..head.min(room)], *end)?;
            self.disk.sync(file)
        });
        done.context("take back what was not written to its end")?;
        self.torn = false;
        Ok(())
    }
}

/// Makes durable what was read: it is acted on, and must not go with the power. The last frame may
/// be one whose sync failed; the kernel takes its pages for written then, so they are written again.
fn settle(disk: &Disk, file: &File, tail: replay::Tail) -> std::io::Result<()> {
    let length = usize::try_from(tail.end - tail.last).unwrap_or(0);
    let mut frame = vec![0; length];
    if length > 0 && disk.read_at(file, &mut frame, tail.last)? == length {
        disk.write(file, &frame, tail.last)?;
    }
    disk.sync(file)
}

/// Whether it is because the disk has no room.
fn is_full(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    matches!(kind, Some(StorageFull | QuotaExceeded))
}
