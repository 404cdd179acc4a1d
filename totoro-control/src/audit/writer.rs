//! Appending to segments. What a call has answered is durable; what a failed call has left in a
//! file is cut before the next one writes there.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{TrailError, io, sync_dir};
use super::line::{Seal, Summary, write_seal, write_stored};
use super::outbox::Stored;
use super::segment::{Index, Name, Segment};

/// What is kept of the memory for lines, bytes: more than most batches take.
const KEPT: usize = 1 << 20;

/// The only one that changes the segments.
pub(super) struct Writer {
    dir: PathBuf,
    /// A segment of this length gets no further event, bytes.
    segment_bytes: u64,
    index: Index,
    /// The newest name ever given: names only grow.
    newest: Option<Name>,
    /// The active segment's file; there is one when the index has one.
    file: Option<Appending>,
    /// Where lines are made: kept, since its memory would be the system's again after each batch.
    lines: Vec<u8>,
}

/// The file that is appended to.
struct Appending {
    file: File,
    path: PathBuf,
    /// Something may stand beyond the durable length.
    dirty: bool,
    /// Its name is durable.
    named: bool,
}

impl Writer {
    /// Goes on where the index ends.
    pub(super) fn open(
        dir: &Path,
        segment_bytes: u64,
        index: Index,
        dropped: Option<Name>,
    ) -> Result<Self, TrailError> {
        let file = match &index.active {
            Some(active) => {
                let path = dir.join(active.name.to_string());
                let file = File::options().write(true).open(&path);
                Some(Appending {
                    file: file.map_err(io("open", &path))?,
                    path,
                    dirty: false,
                    named: true,
                })
            }
            None => None,
        };
        let newest = index.segments().map(|segment| segment.name).max();
        Ok(Writer {
            dir: dir.to_owned(),
            segment_bytes,
            index,
            newest: newest.max(dropped),
            file,
            lines: Vec::new(),
        })
    }

    /// What is durable.
    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// Appends as many of these events as go into one segment; answers how many. They are in order
    /// and stand after the index's end.
    pub(super) fn append(&mut self, events: &[Stored]) -> Result<usize, TrailError> {
        let Some(day) = events.first().map(|event| event.position.day) else {
            return Ok(0);
        };
        if self
            .index
            .active
            .as_ref()
            .is_some_and(|active| active.name.day < day || active.bytes >= self.segment_bytes)
        {
            self.seal()?;
        }
        let mut segment = match self.index.active.clone() {
            Some(active) => active,
            None => self.create(day)?,
        };
        let (mut lines, mut taken) = (std::mem::take(&mut self.lines), 0);
        lines.clear();
        for event in events {
            let full = segment.bytes + lines.len() as u64 >= self.segment_bytes;
            if taken > 0 && (full || event.position.day > day) {
                break;
            }
            write_stored(&mut lines, &event.json);
            Summary::add(&mut segment.summary, event.position, event.at());
            taken += 1;
        }
        let written = self.write(segment.bytes, &lines);
        segment.bytes += lines.len() as u64;
        lines.shrink_to(KEPT);
        self.lines = lines;
        written?;
        self.index.end = segment.last().unwrap_or(self.index.end);
        self.index.active = Some(segment);
        Ok(taken)
    }

    /// Completes the active segment: its last line says what is in it, and it gets no further one.
    pub(super) fn seal(&mut self) -> Result<(), TrailError> {
        let Some(mut segment) = self.index.active.clone() else {
            return Ok(());
        };
        if let Some(summary) = segment.summary.clone() {
            let mut line = Vec::new();
            let seal = Seal {
                summary,
                prefixes_only: false,
            };
            encoded(write_seal(&mut line, &seal))?;
            self.write(segment.bytes, &line)?;
            segment.bytes += line.len() as u64;
            segment.sealed = true;
            Arc::make_mut(&mut self.index.closed).push(segment);
        } else if let Some(appending) = &self.file {
            // Made, but nothing could ever be written to it.
            fs::remove_file(&appending.path).map_err(io("remove", &appending.path))?;
        }
        (self.index.active, self.file) = (None, None);
        Ok(())
    }

    /// Removes the closed segments up to this one.
    pub(super) fn remove(&mut self, up_to: Name) -> Result<(), TrailError> {
        let closed = Arc::make_mut(&mut self.index.closed);
        let mut kept = Vec::with_capacity(closed.len());
        let mut failed = Ok(());
        for segment in closed.drain(..) {
            if segment.name > up_to {
                kept.push(segment);
                continue;
            }
            let path = self.dir.join(segment.name.to_string());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    failed = Err(io("remove", &path)(error));
                    kept.push(segment);
                }
                _ => {}
            }
        }
        *closed = kept;
        failed?;
        sync_dir(&self.dir)
    }

    /// Puts a rewritten segment in the place of the old one.
    pub(super) fn replace(&mut self, rewritten: Segment) {
        let closed = Arc::make_mut(&mut self.index.closed);
        if let Some(old) = closed.iter_mut().find(|old| old.name == rewritten.name) {
            *old = rewritten;
        }
    }

    fn create(&mut self, day: u32) -> Result<Segment, TrailError> {
        let name = match self.newest {
            Some(newest) if newest.day >= day => Name {
                number: newest.number + 1,
                ..newest
            },
            _ => Name { day, number: 1 },
        };
        let path = self.dir.join(name.to_string());
        let file = create(&path)?;
        self.newest = Some(name);
        self.file = Some(Appending {
            file,
            path,
            dirty: false,
            named: false,
        });
        let segment = Segment {
            name,
            summary: None,
            bytes: 0,
            sealed: false,
            prefixes_only: false,
            damaged: false,
        };
        self.index.active = Some(segment.clone());
        Ok(segment)
    }

    /// Writes at the durable end, `at`, of the active segment, and makes it durable.
    fn write(&mut self, at: u64, lines: &[u8]) -> Result<(), TrailError> {
        let Some(appending) = &mut self.file else {
            return Err(TrailError::Failed("no segment is open".to_owned()));
        };
        let path = &appending.path;
        if appending.dirty {
            // After a failed fsync the pages count as clean though the disk may not have them:
            // written anew they are dirty again, and the next fsync means something.
            let cut = appending.file.set_len(at);
            cut.map_err(io("cut what a failed write left in", path))?;
        }
        appending.dirty = true;
        let written = appending.file.write_all_at(lines, at);
        written.map_err(io("write", path))?;
        appending.file.sync_data().map_err(io("fsync", path))?;
        if !appending.named {
            sync_dir(&self.dir)?;
            appending.named = true;
        }
        appending.dirty = false;
        Ok(())
    }
}

/// Makes a new file for the owner alone: events hold addresses.
pub(super) fn create(path: &Path) -> Result<File, TrailError> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(io("create", path))
}

pub(super) fn encoded(written: serde_json::Result<()>) -> Result<(), TrailError> {
    written.map_err(|error| TrailError::Failed(format!("an event cannot be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::Author;
    use super::super::id::write_id;
    use super::*;
    use crate::store::Position;

    fn event(revision: u64) -> Stored {
        let position = Position {
            day: 1,
            revision,
            index: 0,
        };
        let mut event = Author::system().event("x.y").into_event();
        event.id = write_id(position);
        Stored::new(position, &event).unwrap()
    }

    #[test]
    fn what_a_failed_write_left_is_cut_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), 4096, Index::default(), None).unwrap();
        assert_eq!(writer.append(&[event(1)]).unwrap(), 1);
        let path = dir.path().join("1970-01-02.0001.ndjson");
        let whole = std::fs::read(&path).unwrap();

        // The disk takes a part, longer than what comes after it, and then no more.
        let appending = writer.file.as_mut().unwrap();
        let disk = std::mem::replace(&mut appending.file, File::open(&path).unwrap());
        disk.write_all_at(&[b'#'; 2000], whole.len() as u64)
            .unwrap();
        let failed = writer.append(&[event(2)]).unwrap_err();
        assert!(failed.to_string().contains("cannot write"), "{failed}");
        assert_eq!(writer.index().end, event(1).position);

        writer.file.as_mut().unwrap().file = disk;
        assert_eq!(writer.append(&[event(2)]).unwrap(), 1);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.as_bytes().starts_with(&whole) && !text.contains('#'));
    }

    #[test]
    fn a_segment_that_could_not_be_begun_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), 4096, Index::default(), None).unwrap();
        writer.create(1).unwrap();
        writer.seal().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(writer.append(&[event(1)]).unwrap(), 1);
    }
}
