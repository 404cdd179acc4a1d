//! A file of the log as bytes alone, for the fuzz targets (`tests/fuzz`).

use super::format::{Begins, Frame, HEAD, HEADER, Header, Kind, Op, frame};
use super::index::Index;
use super::replay::one;

/// An op: kind, flag, key, value.
pub type Parts = (u8, u8, Vec<u8>, Vec<u8>);

/// What a start makes of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// Up to where it holds, bytes; 0 = it has no header yet.
    pub end: u64,
    /// The number of the first frame, and of the one that comes next.
    pub seqs: [u64; 2],
    /// The ops of each frame.
    pub frames: Vec<Vec<Parts>>,
    /// How much of it lives, bytes.
    pub live: u64,
    /// How many events wait.
    pub waiting: usize,
}

/// Reads a file with this number as a start does, `seq` being the number of the frame that is next.
///
/// # Errors
/// The file is damaged.
pub fn read(number: u32, bytes: &[u8], seq: Option<u64>, is_newest: bool) -> Result<Taken, String> {
    let mut index = Index::default();
    let tail = one(&mut index, number, bytes, seq, is_newest).map_err(|error| error.to_string())?;
    let first = match Header::decode(bytes) {
        Begins::With(header) if tail.end > 0 => header.first,
        _ => tail.seq,
    };
    let (mut at, mut frames) = (HEADER, Vec::new());
    while (at as u64) < tail.end {
        let (_, ops) = frame(&bytes[at..]).ok_or("a frame that was taken is none")?;
        at += HEAD + ops.len();
        frames.push(parts(ops).ok_or("an op that was taken is none")?);
    }
    Ok(Taken {
        end: tail.end,
        seqs: [first, tail.seq],
        frames,
        live: index.space.live(),
        waiting: index.waiting.len(),
    })
}

fn parts(mut ops: &[u8]) -> Option<Vec<Parts>> {
    let mut found = Vec::new();
    while !ops.is_empty() {
        let op = Op::first(ops)?;
        let (key, value) = (op.key.to_vec(), op.value.to_vec());
        found.push((op.kind as u8, op.flag, key, value));
        ops = &ops[op.len()..];
    }
    Some(found)
}

/// Writes such a file; `None` where an op is of no kind.
#[must_use]
pub fn write(number: u32, first: u64, frames: &[Vec<Parts>]) -> Option<Vec<u8>> {
    let header = Header {
        number,
        oldest: 0,
        first,
    };
    let mut bytes = header.encode().to_vec();
    for (seq, ops) in (first..).zip(frames) {
        let mut frame = Frame::new(0);
        for (kind, flag, key, value) in ops {
            frame.ops().push(Kind::of(*kind)?, *flag, key, value);
        }
        bytes.extend_from_slice(frame.seal(seq, None)?);
    }
    Some(bytes)
}
