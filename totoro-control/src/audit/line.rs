//! One line of a segment: JSON that people and `jq` can read, with its own checksum in front.
//!
//! ```text
//! {"sum":"1f0c9a3e","event":{"id":"00004f…","at":"…",…}}
//! {"sum":"77ab01d2","seal":{"first":"…","last":"…","events":40961,…}}
//! ```
//!
//! The sum is the CRC-32 of all that follows it up to the line's end. A line counts when it ends in
//! a line feed and its sum holds, so what a power cut left half-written is recognised. The seal is
//! the last line of a complete segment and says what is in it.

use serde::{Deserialize, Serialize};
use totoro_api::wire::event::AuditEvent;

use super::id::{self, as_text, read_id};
use crate::store::Position;

/// No line is longer, bytes: events are at most [`crate::store::MAX_VALUE`].
pub(super) const MAX_LINE: usize = 8 * 1024;

const HEAD: &[u8] = b"{\"sum\":\"";
const SUM: usize = 8;
/// Where the summed part begins.
const BODY: usize = HEAD.len() + SUM + 2;
const EVENT: &[u8] = b"\"event\":";
const EVENT_ID: &[u8] = b"{\"id\":\"";
const SEAL: &[u8] = b"\"seal\":";

/// What a run of events spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Where the first stands.
    #[serde(with = "as_text")]
    pub first: Position,
    /// Where the last stands.
    #[serde(with = "as_text")]
    pub last: Position,
    /// How many.
    pub events: u64,
    /// The earliest `at`, RFC 3339: nodes tell of things later than they happen.
    pub earliest: String,
    /// The latest `at`, RFC 3339.
    pub latest: String,
}

impl Summary {
    /// Takes one more event in.
    pub(super) fn add(summary: &mut Option<Self>, position: Position, at: &str) {
        match summary {
            None => {
                *summary = Some(Summary {
                    first: position,
                    last: position,
                    events: 1,
                    earliest: at.to_owned(),
                    latest: at.to_owned(),
                });
            }
            Some(summary) => {
                summary.last = position;
                summary.events += 1;
                // RFC 3339 with fixed width sorts as text.
                if at < summary.earliest.as_str() {
                    at.clone_into(&mut summary.earliest);
                } else if at > summary.latest.as_str() {
                    at.clone_into(&mut summary.latest);
                }
            }
        }
    }
}

/// The last line of a complete segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// What is in it.
    #[serde(flatten)]
    pub summary: Summary,
    /// Whether client addresses were cut to their prefixes.
    #[serde(default)]
    pub prefixes_only: bool,
}

/// A line that holds.
#[derive(Debug, PartialEq)]
pub enum Line<'a> {
    /// An event: where it stands, and its JSON.
    Event(Position, &'a [u8]),
    /// The seal.
    Seal(Box<Seal>),
}

/// Writes an event, whose id is set.
///
/// # Errors
/// When it cannot be encoded, which no event does.
pub fn write_event(out: &mut Vec<u8>, event: &AuditEvent) -> serde_json::Result<()> {
    write(out, EVENT, event)
}

/// Writes a seal.
///
/// # Errors
/// When it cannot be encoded, which no seal does.
pub fn write_seal(out: &mut Vec<u8>, seal: &Seal) -> serde_json::Result<()> {
    write(out, SEAL, seal)
}

/// Writes an event whose JSON, with its id, is there already.
pub(super) fn write_stored(out: &mut Vec<u8>, json: &[u8]) {
    let begin = begin(out, EVENT);
    out.extend_from_slice(json);
    end(out, begin);
}

fn write(out: &mut Vec<u8>, tag: &[u8], value: &impl Serialize) -> serde_json::Result<()> {
    let begin = begin(out, tag);
    if let Err(error) = serde_json::to_writer(&mut *out, value) {
        out.truncate(begin);
        return Err(error);
    }
    end(out, begin);
    Ok(())
}

/// Everything before a line's value; answers where the line begins.
fn begin(out: &mut Vec<u8>, tag: &[u8]) -> usize {
    let begin = out.len();
    out.extend_from_slice(HEAD);
    out.extend_from_slice(&[b'0'; SUM]);
    out.extend_from_slice(b"\",");
    out.extend_from_slice(tag);
    begin
}

/// Everything behind it, and the sum.
fn end(out: &mut Vec<u8>, begin: usize) {
    out.push(b'}');
    let sum = sum(&out[begin + BODY..]);
    out[begin + HEAD.len()..][..SUM].copy_from_slice(&sum);
    out.push(b'\n');
}

/// Reads a line with its line feed; `None` for one that does not hold.
#[must_use]
pub fn read(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n")?;
    let body = line.get(BODY..)?;
    let head = line.starts_with(HEAD) && &line[BODY - 2..BODY] == b"\",";
    if !head || line[HEAD.len()..][..SUM] != sum(body) {
        return None;
    }
    let body = body.strip_suffix(b"}")?;
    if let Some(event) = body.strip_prefix(EVENT) {
        let id = event.strip_prefix(EVENT_ID)?.get(..id::LEN)?;
        return Some(Line::Event(read_id(str::from_utf8(id).ok()?)?, event));
    }
    let seal = serde_json::from_slice(body.strip_prefix(SEAL)?).ok()?;
    Some(Line::Seal(Box::new(seal)))
}

fn sum(body: &[u8]) -> [u8; SUM] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let sum = crc32fast::hash(body);
    std::array::from_fn(|at| DIGITS[(sum >> (28 - 4 * at)) as usize & 15])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use totoro_api::wire::event::Subject;

    use super::super::Author;
    use super::super::id::write_id;
    use super::*;

    fn event(revision: u64, text: &str) -> AuditEvent {
        let subject = Subject {
            kind: text.to_owned(),
            detail: serde_json::json!({ "text": text }),
            ..Subject::default()
        };
        let mut event = Author::system().event("").into_event();
        event.subject = subject;
        event.id = write_id(position(revision));
        event
    }

    fn position(revision: u64) -> Position {
        Position {
            day: 20_000,
            revision,
            index: 7,
        }
    }

    fn line(event: &AuditEvent) -> Vec<u8> {
        let mut out = Vec::new();
        write_event(&mut out, event).unwrap();
        out
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(revision: u64, text in ".{0,60}") {
            let event = event(revision, &text);
            let line = line(&event);
            prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            match read(&line) {
                Some(Line::Event(at, json)) => {
                    prop_assert_eq!(at, position(revision));
                    prop_assert_eq!(serde_json::from_slice::<AuditEvent>(json).unwrap(), event);
                }
                other => prop_assert!(false, "{:?}", other),
            }
            // People and other programs read it as plain JSON.
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&line).is_ok());
        }

        #[test]
        fn a_changed_bit_is_seen(text in ".{0,20}", at: prop::sample::Index, bit in 0u8..8) {
            let mut line = line(&event(3, &text));
            let at = at.index(line.len());
            line[at] ^= 1 << bit;
            prop_assert_eq!(read(&line), None);
        }
    }

    #[test]
    fn a_line_cut_anywhere_is_none() {
        let line = line(&event(9, "x.y"));
        for end in 0..line.len() {
            assert_eq!(read(&line[..end]), None, "cut at {end}");
        }
        assert!(read(&line).is_some());
    }

    #[test]
    fn seals_read_back() {
        let mut summary = None;
        for (revision, at) in [(1, "2026-01-02"), (2, "2026-01-01"), (5, "2026-01-03")] {
            Summary::add(&mut summary, position(revision), at);
        }
        let summary = summary.unwrap();
        assert_eq!((summary.first, summary.last), (position(1), position(5)));
        assert_eq!(
            (&*summary.earliest, &*summary.latest, summary.events),
            ("2026-01-01", "2026-01-03", 3)
        );
        let seal = Seal {
            summary,
            prefixes_only: true,
        };
        let mut out = Vec::new();
        write_seal(&mut out, &seal).unwrap();
        assert_eq!(read(&out), Some(Line::Seal(Box::new(seal))));
    }
}
