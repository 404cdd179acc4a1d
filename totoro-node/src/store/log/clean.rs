//! Room: files to write to, what is kept for a full disk, and cleaning.

use anyhow::{Context, Result, bail};

use super::ahead::Ahead;
use super::disk::{Disk, RESERVE, SPARES};
use super::format::{FRAME, Frame, HEAD, HEADER, Op, Ops};
use super::index::{Space, Spot};
use super::{AROUND, Log, Newest};

/// What a commit copies at most, but for what is longer than that itself.
const MOST_COPIED: usize = 1 << 20;

/// Up to where a file is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) file: u32,
    at: u64,
    /// Where the frame ends that it stands in.
    frame: u64,
}

impl Cursor {
    pub(super) const fn begin(file: u32) -> Cursor {
        Cursor {
            file,
            at: HEADER as u64,
            frame: HEADER as u64,
        }
    }

    /// Whether all of a file is copied.
    pub(super) fn is_through(&self, file: u32, space: &Space) -> bool {
        self.file == file && self.at >= space.end(file)
    }
}

impl Log {
    /// Begins the next file. To make room it may be the reserve.
    pub(super) fn turn(&mut self, for_room: bool) -> Result<()> {
        let number = self.newest.number.checked_add(1);
        let number = number.context("the log's files have no more numbers")?;
        let (name, length) = (Disk::name(number), self.length());
        let mut is_named = false;
        let ahead = self.ahead.take().map(Ahead::settles);
        // It may be there though its name is not durable yet; on a full disk it is not.
        if let Some(settled) = ahead.filter(|_| self.disk.length(&name) >= length) {
            is_named = settled;
        } else if self.spares > 0 {
            let used = self.use_spare(&name);
            used.context("take a file that is to be used again")?;
        } else if for_room && self.reserve > 0 {
            let used = self.disk.rename(RESERVE, &name);
            used.context("take the reserve")?;
            self.reserve = 0;
        } else {
            let made = self.disk.create(&name, length);
            made.context("make another file of the log")?;
        }
        let file = self.disk.open(number);
        if file.is_err() && is_named {
            // It is there all the same.
            self.ahead = Some(Ahead::DURABLE);
        }
        let file = file.context("open another file of the log")?;
        // Before anything is written to it: under the name that it had, it must stay what it was.
        if !is_named {
            let named = self.disk.sync_names();
            named.context("sync the log's directory")?;
        }
        self.newest = Newest {
            number,
            file,
            end: 0,
            length: self.disk.length(&name),
        };
        if !for_room {
            self.full = false;
            if let Err(error) = self.keep_reserve() {
                tracing::debug!(error = format!("{error:#}"), "the reserve stays as it is");
            }
        }
        Ok(())
    }

    /// Whether there is a file for the next turn.
    const fn has_next(&self) -> bool {
        self.spares > 0 || self.ahead.is_some()
    }

    /// How long a file is made, bytes.
    pub(super) const fn length(&self) -> u64 {
        self.sizes.file + self.sizes.slack
    }

    const fn slack(&self) -> usize {
        self.sizes.slack as usize
    }

    /// Keeps room for the day when the disk is full: without any, what was delivered could not even
    /// be forgotten, for that is a write too. It holds whatever lives in any one file.
    pub(super) fn keep_reserve(&mut self) -> Result<()> {
        let wanted = self
            .length()
            .max(self.index.space.longest() + self.sizes.slack);
        if self.reserve < wanted {
            let made = self.disk.create(RESERVE, wanted);
            made.context("keep room for a full disk")?;
            self.reserve = wanted;
        }
        Ok(())
    }

    /// A file in which nothing lives goes: it is used again, or removed.
    pub(super) fn retire(&mut self, number: u32) {
        let name = Disk::name(number);
        let length = self.disk.length(&name);
        self.index.space.forget(number);
        let done = if self.reserve == 0 && length >= self.length() {
            let kept = self.disk.rename(&name, RESERVE);
            kept.map(|()| self.reserve = length)
        } else if self.spares < SPARES && length == self.length() {
            let kept = self.disk.rename(&name, &Disk::spare(self.spares));
            kept.map(|()| self.spares += 1)
        } else {
            self.disk.remove(&name)
        };
        if let Err(error) = done {
            // The next start does it.
            tracing::warn!(%error, name, "an old file of the log stays");
        }
    }

    /// Copies some of what lives in the oldest file, if the log takes too much, for a commit of so
    /// many bytes; up to where.
    pub(super) fn clean(&mut self, bytes: usize, out: &mut Ops) -> Cursor {
        let space = &self.index.space;
        let crowded = space.used() > (2 * space.live()).max(self.sizes.least);
        if !crowded || self.stuck || self.cursor.file == self.newest.number {
            return self.cursor;
        }
        let budget = (2 * bytes).min(MOST_COPIED) + self.slack();
        match self.copy(budget, true, out) {
            Ok(cursor) => cursor,
            Err(error) => {
                // It can still be written to; what can't be read now may be readable later, and what
                // is damaged will not.
                self.stuck = !error.is::<std::io::Error>();
                let error = format!("{error:#}");
                tracing::error!(error, "the log can't be cleaned, and grows");
                self.cursor
            }
        }
    }

    /// Copies what lives behind the cursor, `budget` bytes of it at most; where that is not enough
    /// for the first, more if that may be. Up to where it is copied then.
    fn copy(&self, budget: usize, more: bool, out: &mut Ops) -> Result<Cursor> {
        let name = Disk::name(self.cursor.file);
        let end = self.index.space.end(self.cursor.file);
        let file = self.disk.open(self.cursor.file);
        let file = file.with_context(|| format!("open {name}"))?;
        // Not all of it lives.
        let mut window = budget + self.slack();
        let (mut cursor, mut copied) = (self.cursor, 0);
        let mut bytes = Vec::new();
        while cursor.at < end {
            let rest = usize::try_from(end - cursor.at).unwrap_or(usize::MAX);
            bytes.resize(window.min(rest), 0);
            let filled = self.disk.read_at(&file, &mut bytes, cursor.at);
            bytes.truncate(filled.with_context(|| format!("read {name}"))?);
            let begin = cursor.at;
            let mut inside = &bytes[..];
            while let Some(step) = cursor.step(inside, end) {
                if let Step::Op(op) = &step {
                    let spot = cursor.spot(op)?;
                    if self.index.lives(op, spot) {
                        let length = op.len();
                        if copied + length > budget && (copied > 0 || !more) {
                            return Ok(cursor);
                        }
                        out.copy(&inside[..length]);
                        copied += length;
                    }
                }
                let length = cursor.over(&step);
                inside = &inside[length..];
            }
            if cursor.at > begin {
                break;
            }
            // Not one of it is in the window, or none at all can be read.
            if bytes.len() >= rest || bytes.len() < window.min(rest) {
                bail!("{name}: damaged at byte {begin}");
            }
            window *= 2;
        }
        Ok(cursor)
    }

    /// Makes room on a full disk, for so many bytes as far as a file has it: copies what lives
    /// together, with the reserve as its room, so that old files can go. Whether anything has moved.
    pub(super) fn make_room(&mut self, bytes: u64) -> Result<bool> {
        let space = &self.index.space;
        let least = self.sizes.file / 4;
        let dead = space.used().saturating_sub(space.live());
        if self.stuck || dead < least.max(space.live() / 16) {
            return Ok(false);
        }
        let enough = (bytes + 2 * least).min(self.sizes.file / 2);
        let (last, mut moved) = (self.newest.number, false);
        while self.index.oldest <= last {
            let room = self.sizes.file.saturating_sub(self.newest.end);
            if self.reserve > 0 && (self.has_next() || room >= enough) {
                self.full = false;
                break;
            }
            self.rewind()?;
            if self.index.oldest == self.newest.number {
                self.turn(true)?;
            }
            if !self.move_some()? {
                self.turn(true)?;
                anyhow::ensure!(self.move_some()?, "nothing can be moved");
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Moves what lives in the oldest file to the room that the newest has left; whether there was
    /// any for it.
    fn move_some(&mut self) -> Result<bool> {
        let room = self.newest.length.saturating_sub(self.newest.end);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let Some(budget) = room.checked_sub(AROUND) else {
            return Ok(false);
        };
        // What one frame holds is in memory.
        let budget = budget.min(super::SIZES.file as usize);
        let mut frame = Frame::new(budget + AROUND);
        let cursor = self.copy(budget, self.newest.end == 0, frame.ops())?;
        if cursor == self.cursor && !self.index.space.is_dead(cursor.file) {
            return Ok(false);
        }
        self.put_forgotten(frame.ops());
        self.advance(cursor, &mut frame);
        self.write(frame, cursor)?;
        Ok(true)
    }
}

/// What a cursor stands at.
enum Step<'a> {
    /// A frame's head; its ops take so many bytes.
    Head(u64),
    Op(Op<'a>),
}

impl Cursor {
    /// What is next in some bytes; `None` where it is not whole, or not what was written.
    fn step<'a>(&self, bytes: &'a [u8], end: u64) -> Option<Step<'a>> {
        if self.at < self.frame {
            let op = Op::first(bytes)?;
            return (self.at + op.len() as u64 <= self.frame).then_some(Step::Op(op));
        }
        let head = bytes.get(..HEAD)?;
        let length = u64::from(u32::from_le_bytes(*head[8..].first_chunk()?));
        let holds = head[..4] == FRAME && self.at + HEAD as u64 + length <= end;
        holds.then_some(Step::Head(length))
    }

    /// Goes on behind it; how many bytes that is.
    const fn over(&mut self, step: &Step<'_>) -> usize {
        let length = match step {
            Step::Head(length) => {
                self.frame = self.at + HEAD as u64 + *length;
                HEAD
            }
            Step::Op(op) => op.len(),
        };
        self.at += length as u64;
        length
    }

    /// Where an op stands.
    fn spot(&self, op: &Op<'_>) -> Result<Spot> {
        Ok(Spot {
            file: self.file,
            at: u32::try_from(self.at)?,
            length: u32::try_from(op.len())?,
        })
    }
}
