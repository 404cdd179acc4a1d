//! The trail's part of the store: events wait there, in the commit of what they tell, until they
//! are in a segment.

use totoro_api::wire::event::{AuditEvent, kind};

use super::id::{self, write_id};
use super::{Author, PREFIX};
use crate::store::{Entry, Position, Range, Store, StoreError, prefix_end};

/// Entries counted at once.
const COUNT: usize = 1000;

/// The key of the event at a position.
pub(super) fn key(position: Position) -> Vec<u8> {
    [PREFIX.as_bytes(), &position.encode()].concat()
}

/// An event as it stands in the store: all of its JSON but its id.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stored {
    pub(super) position: Position,
    /// Its JSON, with its id.
    pub(super) json: Vec<u8>,
}

/// How an event's JSON begins; its id follows.
const BEGIN: &[u8] = b"{\"id\":\"";
/// What stands between its id and its time.
const THEN: &[u8] = b"\",\"at\":\"";

impl Stored {
    /// An event that has its id.
    pub(super) fn new(position: Position, event: &AuditEvent) -> serde_json::Result<Self> {
        Ok(Stored {
            position,
            json: serde_json::to_vec(event)?,
        })
    }

    /// An entry, without decoding it: its JSON begins as ours does. `None` where it does not.
    fn spliced((key, found): &Entry) -> Option<Self> {
        let position = Position::decode(&key[PREFIX.len()..])?;
        let rest = found.value.strip_prefix(BEGIN)?;
        let at = begin_of_text(rest.strip_prefix(THEN)?)?;
        if at.contains('\\') {
            return None;
        }
        let json = [BEGIN, write_id(position).as_bytes(), rest].concat();
        Some(Stored { position, json })
    }

    /// When it happened, RFC 3339.
    pub(super) fn at(&self) -> &str {
        let before = BEGIN.len() + id::LEN + THEN.len();
        let at = self.json.get(before..).and_then(begin_of_text);
        at.unwrap_or_default()
    }
}

/// What stands before the next quotation mark.
fn begin_of_text(json: &[u8]) -> Option<&str> {
    let text = json.split(|&byte| byte == b'"').next()?;
    str::from_utf8(text).ok()
}

/// Waiting events after `after`, oldest first, at most `limit`.
pub(super) fn after(
    store: &dyn Store,
    after: Position,
    limit: usize,
) -> Result<Vec<(Position, AuditEvent)>, StoreError> {
    let entries = entries_after(store, after, limit)?;
    Ok(entries.iter().filter_map(decode).collect())
}

/// As [`after`], for those who only pass them on.
pub(super) fn stored_after(
    store: &dyn Store,
    after: Position,
    limit: usize,
) -> Result<Vec<Stored>, StoreError> {
    let stored = |entry: &Entry| {
        Stored::spliced(entry).or_else(|| {
            let (position, event) = decode(entry)?;
            Stored::new(position, &event).ok()
        })
    };
    let entries = entries_after(store, after, limit)?;
    Ok(entries.iter().filter_map(stored).collect())
}

fn entries_after(
    store: &dyn Store,
    after: Position,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    // The next key: no position's is the beginning of another's.
    let mut from = key(after);
    from.push(0);
    let to = prefix_end(PREFIX.as_bytes());
    store.range(Range {
        from: &from,
        to: &to,
        limit,
        reverse: false,
    })
}

/// Waiting events after `after` and before `before`, the newest first, at most `limit`.
pub(super) fn before(
    store: &dyn Store,
    after: Position,
    before: Option<Position>,
    limit: usize,
) -> Result<Vec<(Position, AuditEvent)>, StoreError> {
    let mut from = key(after);
    from.push(0);
    let to = before.map_or_else(|| prefix_end(PREFIX.as_bytes()), key);
    let entries = store.range(Range {
        from: &from,
        to: &to,
        limit,
        reverse: true,
    })?;
    Ok(entries.iter().filter_map(decode).collect())
}

/// The event of an entry. One that cannot be read is told as such: it must neither hold up those
/// behind it nor vanish.
fn decode((key, found): &Entry) -> Option<(Position, AuditEvent)> {
    let position = Position::decode(&key[PREFIX.len()..])?;
    let mut event = serde_json::from_slice(&found.value).unwrap_or_else(|error| {
        let mut event = Author::system().event(kind::AUDIT_UNREADABLE).into_event();
        event.at = super::rfc3339_ms(i64::from(position.day) * 86_400_000);
        event.subject.detail = serde_json::json!({
            "problem": error.to_string(),
            "text": String::from_utf8_lossy(&found.value),
        });
        event
    });
    event.id = write_id(position);
    Some((position, event))
}

/// How many events wait, counted up to `most`.
pub(super) fn count(store: &dyn Store, most: usize) -> Result<usize, StoreError> {
    let mut from = PREFIX.as_bytes().to_vec();
    let to = prefix_end(PREFIX.as_bytes());
    let mut count = 0;
    while count < most {
        let chunk = store.range(Range {
            from: &from,
            to: &to,
            limit: COUNT,
            reverse: false,
        })?;
        count += chunk.len();
        match chunk.last() {
            Some((key, _)) if chunk.len() == COUNT => from = [key, &[0][..]].concat(),
            _ => break,
        }
    }
    Ok(count)
}
