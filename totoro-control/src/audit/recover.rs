//! Opening the segments as a crash, a power cut or a disk left them.
//!
//! What the store has recorded as moved was durable in a segment before: if it cannot be read, the
//! file is damaged, and stays as it is. What lies beyond was never acknowledged and is still in the
//! store: there a line that does not hold is the torn end of a write, and is cut.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use super::error::{TrailError, io, sync_dir};
use super::file::SegmentFile;
use super::id::write_id;
use super::line::{self, Line, Seal, Summary};
use super::marks::Marks;
use super::segment::{Index, Name, Segment};
use crate::store::Position;

/// How rewritten segments end until they take their place.
pub(super) const TEMPORARY: &str = ".tmp";

/// Opens the segments in `dir`, which is made where there is none.
pub(super) fn recover(dir: &Path, marks: &Marks) -> Result<Index, TrailError> {
    make(dir)?;
    let names = list(dir, marks)?;
    let (mut closed, mut active) = (Vec::new(), None);
    // How far the trail is whole so far: what was dropped was.
    let mut reached = marks
        .dropped
        .map_or(Position::default(), |dropped| dropped.last);
    for (at, &name) in names.iter().enumerate() {
        let path = dir.join(name.to_string());
        let newest = at + 1 == names.len();
        let segment = match look_at(&path, name, newest, reached, marks.moved) {
            Ok(Some(segment)) => segment,
            Ok(None) => continue,
            // A disk that cannot read one file must not cost the others.
            Err(TrailError::Io {
                doing: "open" | "read",
                source,
                ..
            }) => {
                tracing::error!(segment = %path.display(), error = %source, "cannot be read");
                unreadable(name)
            }
            Err(error) => return Err(error),
        };
        if let Some(summary) = &segment.summary {
            give_way(&mut closed, summary.first);
            reached = reached.max(summary.last);
        }
        if segment.damaged {
            tracing::error!(
                segment = %path.display(),
                "an audit segment is damaged; the rest is served, the file is left as it is: \
                 restore it from a backup"
            );
        }
        if newest && !segment.sealed && !segment.damaged {
            active = Some(segment);
        } else {
            closed.push(segment);
        }
    }
    sync_dir(dir)?;
    if reached < marks.moved {
        tracing::error!(
            dir = %dir.display(),
            after = write_id(reached),
            up_to = write_id(marks.moved),
            "events that had been moved to audit segments are not there: a segment was removed or \
             is damaged; restore it from a backup"
        );
    }
    Ok(Index {
        closed: Arc::new(closed),
        active,
        end: reached.max(marks.moved),
    })
}

/// Behind its damage a segment may hold events that were never acknowledged there, and were moved
/// to the next one then: there they count.
fn give_way(closed: &mut [Segment], next: Position) {
    let Some(Segment {
        damaged: true,
        summary: Some(summary),
        ..
    }) = closed.last_mut()
    else {
        return;
    };
    if summary.last >= next {
        summary.last = match next.index.checked_sub(1) {
            Some(index) => Position { index, ..next },
            None => Position {
                revision: next.revision.saturating_sub(1),
                index: u16::MAX,
                ..next
            },
        };
    }
}

/// Makes the directory, for the owner alone: events hold addresses.
fn make(dir: &Path) -> Result<(), TrailError> {
    let made = fs::DirBuilder::new().mode(0o700).create(dir);
    match made {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io("create", dir)(error)),
        Ok(()) => sync_dir(dir.parent().unwrap_or(dir)),
    }
}

/// The segments in order. Finishes what a crash left half done: rewrites that did not take their
/// place, segments that were recorded as dropped.
fn list(dir: &Path, marks: &Marks) -> Result<Vec<Name>, TrailError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io("list", dir))? {
        let path = entry.map_err(io("list", dir))?.path();
        let text = path.file_name().unwrap_or_default().to_string_lossy();
        let remove = match (Name::parse(&text), text.strip_suffix(TEMPORARY)) {
            (Some(name), _) if marks.dropped.is_some_and(|dropped| name <= dropped.up_to) => true,
            (Some(name), _) => {
                names.push(name);
                false
            }
            (None, Some(rest)) => Name::parse(rest).is_some(),
            (None, None) => {
                tracing::warn!(file = %path.display(), "not an audit segment; left alone");
                false
            }
        };
        if remove {
            fs::remove_file(&path).map_err(io("remove", &path))?;
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// A segment as it is on the disk; `None` when nothing was in it, and it is gone.
fn look_at(
    path: &Path,
    name: Name,
    newest: bool,
    reached: Position,
    moved: Position,
) -> Result<Option<Segment>, TrailError> {
    match sealed(path, name)? {
        Some(segment) => Ok(Some(segment)),
        None => examine(path, name, newest, reached, moved),
    }
}

fn unreadable(name: Name) -> Segment {
    Segment {
        name,
        summary: None,
        bytes: 0,
        sealed: false,
        prefixes_only: false,
        damaged: true,
    }
}

/// A segment whose last line is its seal: what is in it need not be read to know what it spans.
fn sealed(path: &Path, name: Name) -> Result<Option<Segment>, TrailError> {
    let file = SegmentFile::open(path).map_err(io("open", path))?;
    let last = file.last_line().map_err(io("read", path))?;
    let Some(Line::Seal(seal)) = line::read(&last) else {
        return Ok(None);
    };
    Ok(Some(Segment {
        name,
        summary: Some(seal.summary),
        bytes: file.len(),
        sealed: true,
        prefixes_only: seal.prefixes_only,
        damaged: false,
    }))
}

/// What a segment without a seal holds, as read from its lines.
#[derive(Debug, Default, PartialEq)]
struct Examined {
    summary: Option<Summary>,
    seal: Option<Seal>,
    /// Something before what was moved last does not hold.
    damaged: bool,
    /// The first byte that does not hold after what was moved last.
    tail: Option<u64>,
}

impl Examined {
    /// Takes the next line in. `moved`: the last event that the store has recorded as moved.
    fn take(&mut self, at: u64, text: &[u8], moved: Position) {
        let last = self.summary.as_ref().map(|summary| summary.last);
        match line::read(text) {
            Some(Line::Event(position, json))
                if last.is_none_or(|last| position > last) && self.seal.is_none() =>
            {
                if self.tail.is_some() {
                    if position > moved {
                        // Beyond the torn end: pages reach the disk in any order.
                        return;
                    }
                    (self.damaged, self.tail) = (true, None);
                }
                match at_of(json) {
                    Some(happened) => Summary::add(&mut self.summary, position, &happened),
                    None => self.damaged = true,
                }
            }
            Some(Line::Seal(seal)) if self.tail.is_none() && self.seal.is_none() => {
                self.seal = Some(*seal);
            }
            _ => {
                self.tail.get_or_insert(at);
            }
        }
    }
}

/// When the event happened.
fn at_of(json: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct At {
        at: String,
    }
    serde_json::from_slice::<At>(json)
        .ok()
        .map(|event| event.at)
}

/// Reads a segment that has no seal at its end, and cuts its torn end. `None`: nothing is in it,
/// and it is gone.
fn examine(
    path: &Path,
    name: Name,
    newest: bool,
    reached: Position,
    moved: Position,
) -> Result<Option<Segment>, TrailError> {
    let file = SegmentFile::open(path).map_err(io("open", path))?;
    let mut examined = Examined::default();
    let mut take = |at, text: &[u8]| {
        examined.take(at, text, moved);
        ControlFlow::Continue(())
    };
    file.forward(0, &mut take).map_err(io("read", path))?;
    let Examined {
        summary,
        seal,
        mut damaged,
        tail,
    } = examined;
    let mut bytes = file.len();
    let last = summary.as_ref().map_or(reached, |summary| summary.last);
    match tail {
        Some(at) if newest && last.max(reached) >= moved => {
            tracing::warn!(
                segment = %path.display(),
                bytes = bytes - at,
                "cut the torn end of an audit segment; its events are still in the store"
            );
            cut(path, at)?;
            bytes = at;
        }
        Some(_) => damaged = true,
        // Killed before its fsync the process may have left lines that are only in memory.
        None if newest => sync(path)?,
        None => {}
    }
    if bytes == 0 {
        fs::remove_file(path).map_err(io("remove", path))?;
        return Ok(None);
    }
    Ok(Some(Segment {
        name,
        summary,
        bytes,
        sealed: seal.is_some(),
        prefixes_only: seal.is_some_and(|seal| seal.prefixes_only),
        damaged,
    }))
}

fn cut(path: &Path, at: u64) -> Result<(), TrailError> {
    File::options()
        .write(true)
        .open(path)
        .and_then(|file| {
            file.set_len(at)?;
            file.sync_all()
        })
        .map_err(io("cut the torn end of", path))
}

fn sync(path: &Path) -> Result<(), TrailError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(io("fsync", path))
}
