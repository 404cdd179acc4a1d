//! The audit trail: append-only, in the order of arrival. Its events are written in the commit of
//! what they tell, so there is no change without its event and no event without its change.
//!
//! The store is only their outbox, since its memory grows with its size: the mover appends them to
//! segment files by day (`mover` tells the steps), and a query reads segments and outbox as one
//! sequence (`query`). A segment is NDJSON with a checksum in each line (`line`); whole segments
//! are dropped by age and size (`retention`), and old ones lose clients' addresses (`rewrite`).

mod address;
mod bound;
mod error;
mod file;
mod id;
mod line;
mod marks;
mod mover;
mod outbox;
mod query;
mod recover;
mod retention;
mod rewrite;
mod segment;
mod settings;
mod trail;
mod upkeep;
mod writer;

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use totoro_api::Reason;
use totoro_api::wire::event::{Actor, AuditEvent, Subject};

pub use error::TrailError;
pub use id::{read_id, write_id};
pub use line::{Line, Seal, Summary, read as read_line, write_event, write_seal};
pub use query::{Ask, Filter, Page};
pub use settings::AuditSettings;
pub use trail::{Figures, Trail};

use crate::store::{MAX_VALUE, StoreError, Tx, json};

/// Where events wait for the mover: `audit/` ‖ position.
pub(crate) const PREFIX: &str = "audit/";

/// The longest text in an event, characters: longer ones are cut.
const MAX_TEXT: usize = 200;
/// The deepest detail: readers of pages of events bound how deep JSON may nest.
const MAX_DEPTH: usize = 16;

/// Who did it and in which request; what all events of one request share. A clone costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Author {
    /// Who.
    pub actor: Arc<Actor>,
    /// The request's id; none for what the control plane does by itself.
    pub request_id: Option<Arc<str>>,
}

impl Author {
    /// The control plane itself.
    #[must_use]
    pub fn system() -> Self {
        let actor = Actor {
            kind: "system".to_owned(),
            ..Actor::default()
        };
        Author {
            actor: Arc::new(actor),
            request_id: None,
        }
    }

    /// Somebody of this kind at this address.
    #[must_use]
    pub fn remote(kind: &str, id: &str, address: IpAddr, request_id: &str) -> Self {
        let address = address.to_canonical().to_string();
        let actor = Actor {
            kind: kind.to_owned(),
            id: id.to_owned(),
            address,
        };
        Author {
            actor: Arc::new(actor),
            request_id: Some(request_id.into()),
        }
    }

    /// An event of this kind by this author.
    #[must_use]
    pub fn event(&self, kind: &str) -> Draft {
        self.about(Subject {
            kind: kind.to_owned(),
            ..Subject::default()
        })
    }

    /// An event about this by this author.
    #[must_use]
    pub fn about(&self, subject: Subject) -> Draft {
        Draft {
            author: self.clone(),
            node: None,
            spooled: None,
            subject,
        }
    }
}

/// An event before it has arrived.
#[derive(Clone, Debug)]
pub struct Draft {
    author: Author,
    node: Option<String>,
    spooled: Option<Spooled>,
    subject: Subject,
}

/// Where an event stood on its node.
#[derive(Clone, Debug)]
struct Spooled {
    spool: String,
    seq: u64,
    boot: Option<String>,
    at_ms: i64,
}

impl Draft {
    /// The node it is about.
    #[must_use]
    pub fn node(mut self, id: &str) -> Self {
        self.node = Some(id.to_owned());
        self
    }

    /// The invite it is about.
    #[must_use]
    pub fn invite(mut self, id: &str) -> Self {
        self.subject.invite = Some(id.to_owned());
        self
    }

    /// The session it is about.
    #[must_use]
    pub fn session(mut self, id: &str) -> Self {
        self.subject.session = Some(id.to_owned());
        self
    }

    /// The client's address.
    #[must_use]
    pub fn client(mut self, address: IpAddr) -> Self {
        self.subject.client = Some(address.to_canonical().to_string());
        self
    }

    /// Why it was refused.
    #[must_use]
    pub fn reason(mut self, reason: Reason) -> Self {
        self.subject.reason = Some(reason);
        self
    }

    /// What else there is to say.
    #[must_use]
    pub fn detail(mut self, detail: Value) -> Self {
        self.subject.detail = detail;
        self
    }

    /// What a node spooled, as it told it.
    #[must_use]
    pub fn spooled(
        mut self,
        subject: Subject,
        at_ms: i64,
        boot: &str,
        spool: &str,
        seq: u64,
    ) -> Self {
        self.subject = subject;
        self.spooled = Some(Spooled {
            spool: spool.to_owned(),
            seq,
            boot: Some(boot.to_owned()),
            at_ms,
        });
        self
    }

    /// As it is stored: all but its id.
    fn written<'a>(&'a self, at: &'a str) -> Written<'a> {
        let spooled = self.spooled.as_ref();
        Written {
            id: "",
            at,
            actor: &self.author.actor,
            request_id: self.author.request_id.as_deref(),
            node: self.node.as_deref(),
            spool: spooled.map(|of| of.spool.as_str()),
            seq: spooled.map(|of| of.seq),
            boot: spooled.and_then(|of| of.boot.as_deref()),
            subject: &self.subject,
        }
    }

    /// As it is read, but for its id and its time.
    fn into_event(self) -> AuditEvent {
        let (spool, seq, boot) = match self.spooled {
            Some(of) => (Some(of.spool), Some(of.seq), of.boot),
            None => (None, None, None),
        };
        AuditEvent {
            id: String::new(),
            at: String::new(),
            actor: Arc::unwrap_or_clone(self.author.actor),
            request_id: self.author.request_id.as_deref().map(str::to_owned),
            node: self.node,
            spool,
            seq,
            boot,
            subject: self.subject,
        }
    }
}

/// An [`AuditEvent`] as it is written, with nothing copied for it.
#[derive(Serialize)]
struct Written<'a> {
    id: &'a str,
    at: &'a str,
    actor: &'a Actor,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<&'a str>,
    #[serde(flatten)]
    subject: &'a Subject,
}

/// Adds the event to a transaction. `now_ms` is the time of what the control plane did itself.
///
/// # Errors
/// When it cannot be encoded, which no event does.
pub fn record(tx: &mut Tx<'_>, mut draft: Draft, now_ms: i64) -> Result<(), StoreError> {
    let at_ms = draft.spooled.as_ref().map(|of| of.at_ms);
    // Nothing happens after it has arrived: a node's clock that is ahead cannot hide an event from
    // those who ask for what was new by now.
    let at = rfc3339_ms(at_ms.map_or(now_ms, |at_ms| at_ms.min(now_ms)));
    let text = encode(&mut draft, &at).map_err(|source| StoreError::Unreadable {
        key: PREFIX.to_owned(),
        source,
    })?;
    tx.append_bytes(PREFIX, text);
    Ok(())
}

/// An event as it is stored. What a node may have made too long is cut: an event is never refused
/// for its size, or it would hold up the spool behind it for ever.
fn encode(draft: &mut Draft, at: &str) -> serde_json::Result<Vec<u8>> {
    let subject = &mut draft.subject;
    let boot = draft.spooled.as_mut().and_then(|of| of.boot.as_mut());
    let texts = [
        &mut subject.invite,
        &mut subject.session,
        &mut subject.lease,
        &mut subject.client,
        &mut subject.proxy,
    ];
    let texts = texts.into_iter().flatten().chain(boot);
    for text in texts.chain([&mut subject.kind]) {
        if text.len() > MAX_TEXT
            && let Some((end, _)) = text.char_indices().nth(MAX_TEXT)
        {
            text.truncate(end);
        }
    }
    if !deeper_than(&draft.subject.detail, MAX_DEPTH) {
        let text = json(&draft.written(at))?;
        if text.len() <= MAX_VALUE {
            return Ok(text);
        }
    }
    let dropped = draft.subject.detail.to_string().len();
    draft.subject.detail = serde_json::json!({ "dropped_bytes": dropped });
    // Escapes can make text six times as long in JSON, hence the measured size and not the sum.
    let text = json(&draft.written(at))?;
    if text.len() <= MAX_VALUE {
        return Ok(text);
    }
    let subject = &mut draft.subject;
    (
        subject.session,
        subject.lease,
        subject.client,
        subject.proxy,
    ) = (None, None, None, None);
    if let Some(of) = &mut draft.spooled {
        of.boot = None;
    }
    json(&draft.written(at))
}

fn deeper_than(value: &Value, depth: usize) -> bool {
    let below = |value: &Value| depth == 0 || deeper_than(value, depth - 1);
    match value {
        Value::Array(values) => values.iter().any(below),
        Value::Object(values) => values.values().any(below),
        _ => false,
    }
}

/// Unix milliseconds as RFC 3339, UTC, always with three decimals.
#[must_use]
pub fn rfc3339_ms(ms: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // By hand: each event has one, and `time`'s formatting takes ten times as long.
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut write = |at: std::ops::Range<usize>, mut number: u32| {
        for digit in text[at].iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
        }
    };
    write(0..4, at.year().unsigned_abs());
    write(5..7, u8::from(at.month()).into());
    write(8..10, at.day().into());
    write(11..13, at.hour().into());
    write(14..16, at.minute().into());
    write(17..19, at.second().into());
    write(20..23, at.millisecond().into());
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod trail_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sort_as_text() {
        assert_eq!(rfc3339_ms(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339_ms(1_700_000_000_005), "2023-11-14T22:13:20.005Z");
        assert_eq!(rfc3339_ms(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339_ms(i64::MAX), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_detail_stays_shallow() {
        let nested = |depth: usize| {
            let text = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let kept = |detail: Value| {
            let mut draft = Author::system().event("x.y").detail(detail);
            encode(&mut draft, "").unwrap();
            draft.subject.detail
        };
        assert_eq!(kept(nested(16)), nested(16));
        assert_eq!(
            kept(nested(100)),
            serde_json::json!({ "dropped_bytes": 201 })
        );
    }

    #[test]
    fn any_event_fits_the_store() {
        let subject = Subject {
            kind: "\u{1}".repeat(5000),
            proxy: Some("\u{1}".repeat(5000)),
            session: Some("\u{1}".repeat(5000)),
            client: Some("界".repeat(5000)),
            detail: serde_json::json!({ "text": "x".repeat(100_000) }),
            ..Subject::default()
        };
        let mut draft = Author::system()
            .event("")
            .spooled(subject, 0, "boot", "spool", 1);
        assert!(encode(&mut draft, "").unwrap().len() <= MAX_VALUE);
        assert_eq!(draft.into_event().seq, Some(1));
    }

    #[test]
    fn what_is_written_is_the_event() {
        let subject = Subject {
            kind: "x.y".to_owned(),
            invite: Some("inv".to_owned()),
            port: Some(7),
            reason: Some(Reason::MaxConns),
            detail: serde_json::json!({ "a": [1] }),
            ..Subject::default()
        };
        let author = Author::remote("node", "n", [192, 0, 2, 1].into(), "r");
        let plain = author.about(subject.clone()).node("n");
        let spooled = author.event("").spooled(subject, 5, "boot", "spool", 9);
        for draft in [plain, spooled, Author::system().event("x.y")] {
            let written = serde_json::to_string(&draft.written("at")).unwrap();
            let mut event = draft.into_event();
            event.at = "at".to_owned();
            assert_eq!(written, serde_json::to_string(&event).unwrap());
        }
    }
}
