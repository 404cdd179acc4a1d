//! The trail's part of the store: events wait there, in the commit of what they tell, until they
//! are in a segment.

use std::ops::Range;

use totoro_api::wire::event::{AuditEvent, kind};

use super::id::write_id;
use super::{Author, PREFIX};
use crate::store::{self, Entry, Position, Store, StoreError, prefix_end};

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
    /// Where in it stands when it happened, RFC 3339.
    at: Range<usize>,
}

/// How an event's JSON begins; its id follows.
const BEGIN: &[u8] = b"{\"id\":\"";
/// What stands between its id and its time.
const THEN: &[u8] = b"\",\"at\":\"";

impl Stored {
    /// An event that has its id.
    pub(super) fn new(position: Position, event: &AuditEvent) -> serde_json::Result<Self> {
        let json = serde_json::to_vec(event)?;
        let at = BEGIN.len() + event.id.len() + THEN.len();
        Ok(Stored {
            position,
            at: at..at + event.at.len(),
            json,
        })
    }

    /// An entry, without decoding it: its JSON begins as ours does. `None` where it does not.
    fn spliced((key, found): &Entry) -> Option<Self> {
        let position = Position::decode(&key[PREFIX.len()..])?;
        let rest = found.value.strip_prefix(BEGIN)?;
        let at = rest
            .strip_prefix(THEN)?
            .split(|&byte| byte == b'"')
            .next()?;
        let at = str::from_utf8(at).ok().filter(|at| !at.contains('\\'))?;
        let id = write_id(position);
        let begins = BEGIN.len() + id.len() + THEN.len();
        Some(Stored {
            position,
            at: begins..begins + at.len(),
            json: [BEGIN, id.as_bytes(), rest].concat(),
        })
    }

    /// When it happened, RFC 3339.
    pub(super) fn at(&self) -> &str {
        let at = self.json.get(self.at.clone()).unwrap_or_default();
        str::from_utf8(at).unwrap_or_default()
    }
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
    store.range(store::Range {
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
    let entries = store.range(store::Range {
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
        let chunk = store.range(store::Range {
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
