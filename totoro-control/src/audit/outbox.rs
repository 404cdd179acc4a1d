//! The trail's part of the store: events wait there, in the commit of what they tell, until they
//! are in a segment.

use totoro_api::wire::event::{AuditEvent, kind};

use super::id::write_id;
use super::{Author, PREFIX};
use crate::store::{Entry, Position, Range, Store, StoreError, prefix_end};

/// Entries counted at once.
const COUNT: usize = 1000;

/// The key of the event at a position.
pub(super) fn key(position: Position) -> Vec<u8> {
    [PREFIX.as_bytes(), &position.encode()].concat()
}

/// Waiting events after `after`, oldest first, at most `limit`.
pub(super) fn after(
    store: &dyn Store,
    after: Position,
    limit: usize,
) -> Result<Vec<(Position, AuditEvent)>, StoreError> {
    // The next key: no position's is the beginning of another's.
    let mut from = key(after);
    from.push(0);
    let to = prefix_end(PREFIX.as_bytes());
    read(store, &from, &to, limit, false)
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
    read(store, &from, &to, limit, true)
}

fn read(
    store: &dyn Store,
    from: &[u8],
    to: &[u8],
    limit: usize,
    reverse: bool,
) -> Result<Vec<(Position, AuditEvent)>, StoreError> {
    let entries = store.range(Range {
        from,
        to,
        limit,
        reverse,
    })?;
    Ok(entries.iter().filter_map(decode).collect())
}

/// The event of an entry. One that cannot be read is told as such: it must neither hold up those
/// behind it nor vanish.
fn decode((key, found): &Entry) -> Option<(Position, AuditEvent)> {
    let position = Position::decode(&key[PREFIX.len()..])?;
    let mut event = serde_json::from_slice(&found.value).unwrap_or_else(|error| {
        let mut event = Author::system().event(kind::AUDIT_UNREADABLE).event;
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
