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
    /// An event about this by this author.
    pub(super) const fn new(author: Author, subject: Subject) -> Self {
        Draft {
            author,
            node: None,
            spooled: None,
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
    fn written<'a>(&'a self, at: &'a str) -> Written<'a, Subject> {
        let spooled = self.spooled.as_ref();
        Written {
            spool: spooled.map(|of| of.spool.as_str()),
            seq: spooled.map(|of| of.seq),
            boot: spooled.and_then(|of| of.boot.as_deref()),
            ..Written::own(&self.author, self.node.as_deref(), &self.subject, at)
        }
    }

    /// As it is read, but for its id and its time.
    pub(super) fn into_event(self) -> AuditEvent {
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
