//! Events before they have arrived, and how they are written.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use totoro_api::Reason;
use totoro_api::decide::LeaseTold;
use totoro_api::wire::event::{Actor, AuditEvent, Subject};

use super::{Author, PREFIX, rfc3339_ms};
use crate::store::{MAX_VALUE, StoreError, Tx, json};

/// The longest text in an event, characters: longer ones are cut.
const MAX_TEXT: usize = 200;
/// The deepest detail: readers of pages of events bound how deep JSON may nest.
const MAX_DEPTH: usize = 16;

/// An event before it has arrived.
#[derive(Clone, Debug)]
pub struct Draft {
    author: Author,
    node: Option<String>,
    subject: Subject,
}

/// Where an event stood on its node.
#[derive(Clone, Copy, Debug)]
pub struct Spooled<'a> {
    /// The spool's id.
    pub spool: &'a str,
    /// Its number there.
    pub seq: u64,
    /// The boot id of the machine.
    pub boot: &'a str,
    /// When it happened, Unix milliseconds.
    pub at_ms: i64,
}

impl Draft {
    /// An event about this by this author.
    pub(super) const fn new(author: Author, subject: Subject) -> Self {
        Draft {
            author,
            node: None,
            subject,
        }
    }

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

    /// As it is read, but for its id and its time.
    pub(super) fn into_event(self) -> AuditEvent {
        AuditEvent {
            id: String::new(),
            at: String::new(),
            actor: Arc::unwrap_or_clone(self.author.actor),
            request_id: self.author.request_id.as_deref().map(str::to_owned),
            node: self.node,
            spool: None,
            seq: None,
            boot: None,
            subject: self.subject,
        }
    }
}

/// An [`AuditEvent`] as it is written, with nothing copied for it.
#[derive(Serialize)]
struct Written<'a, Subject> {
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

impl<'a, Subject> Written<'a, Subject> {
    /// What the control plane tells by itself: no node spooled it.
    fn own(author: &'a Author, node: Option<&'a str>, subject: &'a Subject, at: &'a str) -> Self {
        Written {
            id: "",
            at,
            actor: &author.actor,
            request_id: author.request_id.as_deref(),
            node,
            spool: None,
            seq: None,
            boot: None,
            subject,
        }
    }
}

/// Adds the event to a transaction. `now_ms` is the time of what the control plane did itself.
///
/// # Errors
/// When it cannot be encoded, which no event does.
pub fn record(tx: &mut Tx<'_>, draft: Draft, now_ms: i64) -> Result<(), StoreError> {
    let Draft {
        author,
        node,
        subject,
    } = &draft;
    let at = rfc3339_ms(now_ms);
    append(tx, &Written::own(author, node.as_deref(), subject, &at))
}

/// The same of what a node spooled, as it told it.
///
/// # Errors
/// As [`record`].
pub fn record_spooled(
    tx: &mut Tx<'_>,
    author: &Author,
    node: &str,
    place: Spooled<'_>,
    subject: &Subject,
    now_ms: i64,
) -> Result<(), StoreError> {
    // Nothing happens after it has arrived, nor before 1970: a node whose clock is wrong, or that
    // lies, cannot hide an event from those who ask for what was new by now.
    let at = rfc3339_ms(place.at_ms.min(now_ms).max(0));
    append(
        tx,
        &Written {
            spool: Some(place.spool),
            seq: Some(place.seq),
            boot: Some(place.boot),
            ..Written::own(author, Some(node), subject, &at)
        },
    )
}

fn append(tx: &mut Tx<'_>, event: &Written<'_, Subject>) -> Result<(), StoreError> {
    let text = encode(event).map_err(|source| StoreError::Unreadable {
        key: PREFIX.to_owned(),
        source,
    })?;
    tx.append_bytes(PREFIX, text);
    Ok(())
}

/// Adds an event of the control plane's own about a lease to a transaction.
///
/// # Errors
/// As [`record`].
pub fn record_lease<Detail: Serialize>(
    tx: &mut Tx<'_>,
    author: &Author,
    node: &str,
    told: &LeaseTold<'_, Detail>,
    now_ms: i64,
) -> Result<(), StoreError> {
    let at = rfc3339_ms(now_ms);
    match json(&Written::own(author, Some(node), told, &at)) {
        Ok(text) if text.len() <= MAX_VALUE => {
            tx.append_bytes(PREFIX, text);
            Ok(())
        }
        // There it is cut.
        _ => record(tx, author.about(told.subject()).node(node), now_ms),
    }
}

/// An event as it is stored. What a node may have made too long is cut: an event is never refused
/// for its size, or it would hold up the spool behind it for ever.
fn encode(event: &Written<'_, Subject>) -> serde_json::Result<Vec<u8>> {
    let fits = |text: &Vec<u8>| text.len() <= MAX_VALUE;
    let deep = deeper_than(&event.subject.detail, MAX_DEPTH);
    let boot = event.boot;
    if !deep
        && !texts(event.subject)
            .chain(boot)
            .any(|text| text.len() > MAX_TEXT)
    {
        let text = json(event)?;
        if fits(&text) {
            return Ok(text);
        }
    }
    let written = |subject: &Subject, boot: Option<&str>| {
        json(&Written {
            boot,
            subject,
            ..*event
        })
    };
    let boot = boot.map(shortened);
    let mut subject = event.subject.clone();
    subject.kind = shortened(&subject.kind).to_owned();
    for text in [
        &mut subject.invite,
        &mut subject.session,
        &mut subject.lease,
        &mut subject.client,
        &mut subject.proxy,
    ] {
        *text = text.as_deref().map(|text| shortened(text).to_owned());
    }
    if !deep {
        let text = written(&subject, boot)?;
        if fits(&text) {
            return Ok(text);
        }
    }
    let dropped = subject.detail.to_string().len();
    subject.detail = serde_json::json!({ "dropped_bytes": dropped });
    // Escapes can make text six times as long in JSON, hence the measured size and not the sum.
    let text = written(&subject, boot)?;
    if fits(&text) {
        return Ok(text);
    }
    (
        subject.session,
        subject.lease,
        subject.client,
        subject.proxy,
    ) = (None, None, None, None);
    written(&subject, None)
}

/// What a node may have made too long.
fn texts(subject: &Subject) -> impl Iterator<Item = &str> {
    let texts = [
        &subject.invite,
        &subject.session,
        &subject.lease,
        &subject.client,
        &subject.proxy,
    ];
    let texts = texts.into_iter().filter_map(|text| text.as_deref());
    texts.chain([&*subject.kind])
}

/// Its first characters, where it is longer than events may have.
fn shortened(text: &str) -> &str {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) if text.len() > MAX_TEXT => &text[..end],
        _ => text,
    }
}

fn deeper_than(value: &Value, depth: usize) -> bool {
    let below = |value: &Value| depth == 0 || deeper_than(value, depth - 1);
    match value {
        Value::Array(values) => values.iter().any(below),
        Value::Object(values) => values.values().any(below),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use totoro_api::decide::{Holder, Lease};
    use totoro_api::ports::Protocol;

    use super::*;
    use crate::store::SledStore;

    #[test]
    fn a_detail_stays_shallow() {
        let nested = |depth: usize| {
            let text = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let kept = |detail: Value| {
            let draft = Author::system().event("x.y").detail(detail);
            let written = Written::own(&draft.author, None, &draft.subject, "");
            let event: AuditEvent = serde_json::from_slice(&encode(&written).unwrap()).unwrap();
            event.subject.detail
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
        let author = Author::system();
        let written = Written {
            seq: Some(1),
            boot: Some("boot"),
            ..Written::own(&author, None, &subject, "")
        };
        let text = encode(&written).unwrap();
        assert!(text.len() <= MAX_VALUE);
        let event: AuditEvent = serde_json::from_slice(&text).unwrap();
        assert_eq!((event.seq, event.boot), (Some(1), None));
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
        let own = author.about(subject.clone()).node("n");
        for (draft, spool) in [(own, Some("spool")), (Author::system().event("x.y"), None)] {
            let written = Written {
                spool,
                seq: spool.map(|_| 9),
                boot: spool.map(|_| "boot"),
                ..Written::own(&draft.author, draft.node.as_deref(), &draft.subject, "at")
            };
            let text = serde_json::to_string(&written).unwrap();
            let event = AuditEvent {
                at: "at".to_owned(),
                spool: spool.map(str::to_owned),
                seq: written.seq,
                boot: written.boot.map(str::to_owned),
                ..draft.clone().into_event()
            };
            assert_eq!(text, serde_json::to_string(&event).unwrap());
        }
    }

    #[test]
    fn a_lease_is_told_of_as_any_subject_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path(), 1 << 20).unwrap();
        let author = Author::remote("node", "n", [192, 0, 2, 1].into(), "r");
        for name in ["web".to_owned(), "\u{1}".repeat(MAX_VALUE)] {
            let lease = Lease::new(7, ("inv_a", "run"), (&name, &name), 5);
            let holder = Holder {
                session: "ses_a",
                invite: Some("inv_a"),
                client: "[2001:db8::1]:9".parse().unwrap(),
            };
            let told = lease.opened((Protocol::Udp, 20_000), holder);
            let (mut plain, mut usual) = (Tx::new(&store), Tx::new(&store));
            record_lease(&mut plain, &author, "n", &told, 9).unwrap();
            let draft = author.about(told.subject()).node("n");
            record(&mut usual, draft, 9).unwrap();
            assert_eq!(plain.into_commit().ops, usual.into_commit().ops);
        }
    }
}
