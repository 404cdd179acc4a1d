//! Reading the trail.

use std::fmt::Write as _;

use totoro_api::Reason;
use totoro_api::wire::event::AuditEvent;

use super::PREFIX;
use crate::store::{Entry, Position, Range, Store, StoreError, prefix_end};

/// Events looked at for one page at most, so that a rare filter cannot hold a thread for long: the
/// page then ends early and its cursor goes on.
const MAX_SCAN: usize = 100_000;
/// Events read from the store at once.
const CHUNK: usize = 1000;

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this node.
    pub node: Option<String>,
    /// Of this invite.
    pub invite: Option<String>,
    /// Of this session.
    pub session: Option<String>,
    /// Of this kind, or of all that begin with it where it ends in `.`: `session.`.
    pub kind: Option<String>,
    /// Refused for this reason.
    pub reason: Option<Reason>,
    /// Not before, Unix milliseconds.
    pub since_ms: Option<i64>,
    /// Before, Unix milliseconds.
    pub until_ms: Option<i64>,
}

/// A page and where the next one begins.
#[derive(Debug, Default)]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<AuditEvent>,
    /// The cursor of the next page.
    pub next: Option<String>,
}

impl Filter {
    fn matches(&self, event: &AuditEvent) -> bool {
        let same = |want: &Option<String>, is: &Option<String>| want.is_none() || want == is;
        let subject = &event.subject;
        let kind = self.kind.as_ref().is_none_or(|kind| {
            subject.kind == *kind || kind.ends_with('.') && subject.kind.starts_with(kind.as_str())
        });
        // RFC 3339 with fixed width sorts as text.
        let since = self
            .since_ms
            .is_none_or(|ms| event.at >= super::rfc3339_ms(ms));
        let until = self
            .until_ms
            .is_none_or(|ms| event.at < super::rfc3339_ms(ms));
        same(&self.node, &event.node)
            && same(&self.invite, &subject.invite)
            && same(&self.session, &subject.session)
            && (self.reason.is_none() || self.reason == subject.reason)
            && kind
            && since
            && until
    }

    /// Where to begin reading: nothing that happened since then can have arrived a day before it.
    fn first_day(&self) -> u32 {
        let day = self
            .since_ms
            .unwrap_or(0)
            .div_euclid(86_400_000)
            .saturating_sub(1);
        u32::try_from(day.max(0)).unwrap_or(u32::MAX)
    }
}

/// Events that match, oldest first: those after `cursor`, or with `newest` the last `limit` of all.
///
/// # Errors
/// When the store fails. A cursor that is none of ours is `Ok(None)`.
pub fn find(
    store: &dyn Store,
    filter: &Filter,
    cursor: Option<&str>,
    limit: usize,
    newest: bool,
) -> Result<Option<Page>, StoreError> {
    let mut from = PREFIX.as_bytes().to_vec();
    match cursor.map(read_id) {
        Some(None) => return Ok(None),
        Some(Some(position)) => {
            from.extend_from_slice(&position.encode());
            from.push(0);
        }
        None => {
            let position = Position {
                day: filter.first_day(),
                ..Position::default()
            };
            from.extend_from_slice(&position.encode());
        }
    }
    let mut to = prefix_end(PREFIX.as_bytes());
    let mut page = Page::default();
    let mut scanned = 0;
    loop {
        let chunk = store.range(Range {
            from: &from,
            to: &to,
            limit: CHUNK,
            reverse: newest,
        })?;
        let end = chunk.len() < CHUNK;
        for entry in &chunk {
            scanned += 1;
            let Some(event) = decode(entry)? else {
                continue;
            };
            let last = event.id.clone();
            if filter.matches(&event) {
                page.events.push(event);
            }
            if page.events.len() >= limit || scanned >= MAX_SCAN {
                if newest {
                    page.events.reverse();
                } else {
                    page.next = Some(last);
                }
                return Ok(Some(page));
            }
        }
        match chunk.last() {
            Some((key, _)) if !end && newest => to = key.clone(),
            Some((key, _)) if !end => from = [key, &[0][..]].concat(),
            _ => break,
        }
    }
    if newest {
        page.events.reverse();
    }
    Ok(Some(page))
}

fn decode((key, found): &Entry) -> Result<Option<AuditEvent>, StoreError> {
    let Some(position) = Position::decode(&key[PREFIX.len()..]) else {
        return Ok(None);
    };
    let mut event: AuditEvent =
        serde_json::from_slice(&found.value).map_err(|source| StoreError::Unreadable {
            key: write_id(position),
            source,
        })?;
    event.id = write_id(position);
    Ok(Some(event))
}

/// The event's id: its position in hex, so ids sort by arrival.
fn write_id(position: Position) -> String {
    position
        .encode()
        .iter()
        .fold(String::with_capacity(28), |mut id, byte| {
            let _ = write!(id, "{byte:02x}");
            id
        })
}

fn read_id(id: &str) -> Option<Position> {
    if id.len() != 2 * Position::LEN || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let bytes: Option<Vec<u8>> = (0..Position::LEN)
        .map(|index| u8::from_str_radix(&id[2 * index..2 * index + 2], 16).ok())
        .collect();
    Position::decode(&bytes?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_sort_by_arrival() {
        let early = Position {
            day: 19_000,
            revision: 9,
            index: 3,
        };
        let late = Position {
            day: 19_000,
            revision: 300,
            index: 0,
        };
        assert!(write_id(early) < write_id(late));
        assert_eq!(read_id(&write_id(late)), Some(late));
        for bad in ["", "zz", &"g".repeat(28), &"é".repeat(14)] {
            assert_eq!(read_id(bad), None, "{bad:?}");
        }
    }
}
