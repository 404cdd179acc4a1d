//! Cutting the client addresses of an old segment: a new file takes the old one's place at once,
//! so that whoever reads, and whenever the power fails, there is a whole segment.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use totoro_api::wire::event::AuditEvent;

use super::address;
use super::error::{TrailError, io, sync_dir};
use super::file::SegmentFile;
use super::line::{self, Line, Seal, Summary, write_event, write_seal};
use super::recover::TEMPORARY;
use super::segment::Segment;
use super::writer::{create, encoded};

/// Rewrites a closed segment with prefixes in place of addresses; answers what it is then.
///
/// # Errors
/// When the disk refuses, or a line does not hold: then the segment stays as it is.
pub(super) fn cut_addresses(dir: &Path, segment: &Segment) -> Result<Segment, TrailError> {
    let path = dir.join(segment.name.to_string());
    let temporary = dir.join(format!("{}{TEMPORARY}", segment.name));
    remove_leftover(&temporary)?;
    let written = create(&temporary).and_then(|file| copy(&path, &temporary, file));
    let (seal, bytes) = match written {
        Ok(written) => written,
        Err(error) => {
            // The next try or start removes it if this fails too.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
    };
    fs::rename(&temporary, &path).map_err(io("rename", &temporary))?;
    sync_dir(dir)?;
    Ok(Segment {
        name: segment.name,
        summary: Some(seal.summary),
        bytes,
        sealed: true,
        prefixes_only: true,
        damaged: false,
    })
}

fn remove_leftover(path: &Path) -> Result<(), TrailError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Copies the events, cut, and seals; durable when it returns.
fn copy(path: &Path, temporary: &Path, file: File) -> Result<(Seal, u64), TrailError> {
    let from = SegmentFile::open(path).map_err(io("open", path))?;
    let mut to = BufWriter::new(file);
    let (mut summary, mut bytes, mut buffer) = (None, 0, Vec::new());
    let mut failed = Ok(());
    let mut each = |at, text: &[u8]| {
        let Some(line) = line::read(text) else {
            failed = Err(TrailError::Damaged {
                path: path.to_owned(),
                at,
            });
            return ControlFlow::Break(());
        };
        let Line::Event(position, json) = line else {
            return ControlFlow::Continue(());
        };
        buffer.clear();
        failed = cut_line(json, &mut buffer).and_then(|happened| {
            Summary::add(&mut summary, position, &happened);
            bytes += buffer.len() as u64;
            to.write_all(&buffer).map_err(io("write", temporary))
        });
        match failed {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    from.forward(0, &mut each).map_err(io("read", path))?;
    failed?;
    let summary =
        summary.ok_or_else(|| TrailError::Failed(format!("{} is empty", path.display())))?;
    let seal = Seal {
        summary,
        prefixes_only: true,
    };
    buffer.clear();
    encoded(write_seal(&mut buffer, &seal))?;
    bytes += buffer.len() as u64;
    to.write_all(&buffer).map_err(io("write", temporary))?;
    let file = to
        .into_inner()
        .map_err(|error| io("write", temporary)(error.into_error()))?;
    file.sync_all().map_err(io("fsync", temporary))?;
    Ok((seal, bytes))
}

/// Writes the event with its addresses cut; answers when it happened.
fn cut_line(json: &[u8], out: &mut Vec<u8>) -> Result<String, TrailError> {
    let mut event: AuditEvent = serde_json::from_slice(json)
        .map_err(|error| TrailError::Failed(format!("an event cannot be read: {error}")))?;
    address::cut(&mut event);
    encoded(write_event(out, &event))?;
    Ok(event.at)
}
