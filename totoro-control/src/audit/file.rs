//! Reading a segment file by lines: from a position on, or backwards from one, in blocks, so that
//! memory stays the same whatever the file's size.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::line::{self, Line, MAX_LINE};
use crate::store::Position;

/// What is read at once, bytes; much more than a line.
const BLOCK: usize = 256 * 1024;
/// What is looked at to find one line, bytes: the rest of one and a whole one.
const PROBE: usize = 2 * MAX_LINE;
/// Once a position is known to be within so many bytes, reading beats looking closer.
const NEAR: u64 = 64 * 1024;

/// Takes a line: where it begins, and the line with its line feed. One without is torn; one of a
/// whole block is no line at all.
pub(super) type Visit<'a> = &'a mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>;

/// An open segment file, up to the length that is to be read.
pub(super) struct SegmentFile {
    file: File,
    len: u64,
}

/// Where a position lies in a file, bytes.
#[derive(Debug, PartialEq)]
pub(super) struct Around {
    /// Lines that begin before it stand at the position or before.
    pub(super) from: u64,
    /// Begins a line, or ends the file; lines from here on stand after the position.
    pub(super) to: u64,
}

impl SegmentFile {
    /// Opens a file: all that is there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(SegmentFile { file, len })
    }

    /// Only so many bytes of it.
    pub(super) fn up_to(self, len: u64) -> Self {
        SegmentFile { len, ..self }
    }

    /// The length, bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Gives the lines from `from` on, which begins one.
    pub(super) fn forward(&self, mut from: u64, visit: Visit<'_>) -> io::Result<()> {
        while from < self.len {
            let block = self.read(from, BLOCK)?;
            if block.is_empty() {
                // Shorter than it was said to be.
                break;
            }
            let at_end = from + block.len() as u64 >= self.len;
            let mut begin = 0;
            while let Some(length) = line_length(&block[begin..]) {
                if visit(from + begin as u64, &block[begin..begin + length]).is_break() {
                    return Ok(());
                }
                begin += length;
            }
            // What is left is the beginning of a line, the torn end, or a block without any line.
            if begin < block.len() && (at_end || begin == 0) {
                if visit(from + begin as u64, &block[begin..]).is_break() {
                    return Ok(());
                }
                begin = block.len();
            }
            from += begin as u64;
        }
        Ok(())
    }

    /// Gives the lines before `to`, which ends one, the last first.
    pub(super) fn backward(&self, mut to: u64, visit: Visit<'_>) -> io::Result<()> {
        while to > 0 {
            let from = to.saturating_sub(BLOCK as u64);
            let block = self.read(from, usize::try_from(to - from).unwrap_or(BLOCK))?;
            // The first line in the block is whole only at the file's beginning.
            let first = match line_length(&block) {
                Some(length) if from > 0 && length < block.len() => length,
                _ => 0,
            };
            let mut begins = Vec::new();
            let mut begin = first;
            while begin < block.len() {
                begins.push(begin);
                begin += line_length(&block[begin..]).unwrap_or(block.len() - begin);
            }
            let mut end = block.len();
            for &begin in begins.iter().rev() {
                if visit(from + begin as u64, &block[begin..end]).is_break() {
                    return Ok(());
                }
                end = begin;
            }
            to = from + first as u64;
        }
        Ok(())
    }

    /// The last line, as far as it is within [`MAX_LINE`].
    pub(super) fn last_line(&self) -> io::Result<Vec<u8>> {
        let block = self.read(self.len.saturating_sub(MAX_LINE as u64), MAX_LINE)?;
        let ended = block.strip_suffix(b"\n").unwrap_or(&block);
        let begin = ended.iter().rposition(|&byte| byte == b'\n');
        Ok(block[begin.map_or(0, |at| at + 1)..].to_vec())
    }

    /// Finds about where a position lies, by halves: lines are in order. Where something cannot be
    /// read on the way the answer is the whole file.
    pub(super) fn around(&self, position: Position) -> io::Result<Around> {
        let (mut from, mut until, mut to) = (0, self.len, self.len);
        while until - from > NEAR {
            let middle = from + (until - from) / 2;
            match self.line_from(middle)? {
                Some((begin, _)) if begin >= until => until = middle,
                Some((begin, Some(stands))) if stands <= position => from = begin,
                Some((begin, _)) => (until, to) = (middle, begin),
                None => {
                    return Ok(Around {
                        from: 0,
                        to: self.len,
                    });
                }
            }
        }
        Ok(Around { from, to })
    }

    /// The first line that begins at `at` or later: where, and its position (none for the seal).
    fn line_from(&self, at: u64) -> io::Result<Option<(u64, Option<Position>)>> {
        // From the byte before: a line feed there makes `at` the beginning.
        let probe = self.read(at - 1, PROBE)?;
        let found = line_length(&probe).and_then(|skipped| {
            let length = line_length(&probe[skipped..])?;
            let stands = match line::read(&probe[skipped..skipped + length])? {
                Line::Event(position, _) => Some(position),
                Line::Seal(_) => None,
            };
            Some((at - 1 + skipped as u64, stands))
        });
        Ok(found)
    }

    /// At most so many bytes from there, fewer only at the end.
    fn read(&self, from: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let left = usize::try_from(self.len.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut block = vec![0; bytes.min(left)];
        let mut filled = 0;
        while filled < block.len() {
            match self
                .file
                .read_at(&mut block[filled..], from + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        block.truncate(filled);
        Ok(block)
    }
}

/// The length of the line that the bytes begin with, its line feed included.
fn line_length(bytes: &[u8]) -> Option<usize> {
    bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Author;
    use super::super::id::write_id;
    use super::*;

    /// A file of such lines, and where each begins.
    fn written(lines: &[Vec<u8>]) -> (tempfile::TempDir, SegmentFile, Vec<u64>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let begins = lines.iter().scan(0, |at, line| {
            let begin = *at;
            *at += line.len() as u64;
            Some(begin)
        });
        let begins = begins.collect();
        std::fs::write(&path, lines.concat()).unwrap();
        let file = SegmentFile::open(&path).unwrap();
        (dir, file, begins)
    }

    fn seen(walk: impl FnOnce(Visit<'_>) -> io::Result<()>) -> Vec<(u64, Vec<u8>)> {
        let mut seen = Vec::new();
        walk(&mut |at, line| {
            seen.push((at, line.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        seen
    }

    fn position(revision: u64) -> Position {
        Position {
            day: 9,
            revision,
            index: 0,
        }
    }

    fn event(revision: u64, padding: usize) -> Vec<u8> {
        let mut event = Author::system().event("x.y").into_event();
        event.id = write_id(position(revision));
        event.subject.detail = "p".repeat(padding).into();
        let mut out = Vec::new();
        line::write_event(&mut out, &event).unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn both_ways_give_the_same_lines(
            lengths in proptest::collection::vec(0usize..9000, 0..120),
            torn in 0usize..100,
        ) {
            let mut lines: Vec<Vec<u8>> = lengths
                .iter()
                .map(|&length| [vec![b'x'; length], vec![b'\n']].concat())
                .collect();
            if torn > 0 {
                lines.push(vec![b'y'; torn]);
            }
            let (_dir, file, begins) = written(&lines);
            let expected: Vec<_> = begins.into_iter().zip(lines).collect();
            prop_assert_eq!(&seen(|visit| file.forward(0, visit)), &expected);
            let mut backward = seen(|visit| file.backward(file.len(), visit));
            backward.reverse();
            prop_assert_eq!(&backward, &expected);
        }

        #[test]
        fn a_position_is_found(
            gaps in proptest::collection::vec((1u64..4, 0usize..3000), 1..300),
            asked in 0u64..1200,
        ) {
            let mut revision = 0;
            let lines: Vec<(u64, Vec<u8>)> = gaps
                .iter()
                .map(|&(gap, padding)| {
                    revision += gap;
                    (revision, event(revision, padding))
                })
                .collect();
            let texts: Vec<_> = lines.iter().map(|(_, line)| line.clone()).collect();
            let (_dir, file, begins) = written(&texts);
            let around = file.around(position(asked)).unwrap();
            prop_assert!(around.to == file.len() || begins.contains(&around.to));
            prop_assert!(begins.contains(&around.from));
            for (begin, (revision, _)) in begins.iter().zip(&lines) {
                prop_assert!(*begin >= around.from || *revision <= asked);
                prop_assert!(*begin < around.to || *revision > asked);
            }
            // It is worth it: little is left to read.
            prop_assert!(around.to - around.from <= NEAR + 2 * MAX_LINE as u64);
        }
    }

    #[test]
    fn a_block_without_a_line_is_passed_over() {
        let lines = [
            event(1, 10),
            vec![b'z'; 3 * BLOCK],
            b"\n".to_vec(),
            event(2, 10),
        ];
        let (_dir, file, _) = written(&lines);
        let good = |lines: Vec<(u64, Vec<u8>)>| -> Vec<Vec<u8>> {
            let lines = lines.into_iter().map(|(_, line)| line);
            lines.filter(|line| line::read(line).is_some()).collect()
        };
        let forward = good(seen(|visit| file.forward(0, visit)));
        assert_eq!(forward, [event(1, 10), event(2, 10)]);
        let backward = good(seen(|visit| file.backward(file.len(), visit)));
        assert_eq!(backward, [event(2, 10), event(1, 10)]);
        let around = file.around(position(1)).unwrap();
        assert_eq!((around.from, around.to), (0, file.len()));
    }
}
