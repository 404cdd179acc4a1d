//! Audit events: what a node sends, and what the trail holds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Reason;

/// The longest reason code that is kept, characters.
const MAX_CODE: usize = 40;

/// What happened, as the contract names it. Unknown kinds of newer nodes are kept as they are.
pub mod kind {
    #![expect(missing_docs, reason = "each constant is its own name")]
    pub const INVITE_CREATED: &str = "invite.created";
    pub const INVITE_CHANGED: &str = "invite.changed";
    pub const INVITE_PAUSED: &str = "invite.paused";
    pub const INVITE_RESUMED: &str = "invite.resumed";
    pub const INVITE_ROTATED: &str = "invite.rotated";
    pub const INVITE_REVOKED: &str = "invite.revoked";
    pub const INVITE_EXPIRED: &str = "invite.expired";
    pub const INVITE_RESOLVED: &str = "invite.resolved";
    pub const INVITE_RESOLVE_REFUSED: &str = "invite.resolve_refused";
    pub const TICKET_ISSUED: &str = "ticket.issued";
    pub const TICKET_REFUSED: &str = "ticket.refused";
    pub const SESSION_OPENED: &str = "session.opened";
    pub const SESSION_RESUMED: &str = "session.resumed";
    pub const SESSION_REFUSED: &str = "session.refused";
    pub const SESSION_KICKED: &str = "session.kicked";
    pub const SESSION_CLOSED: &str = "session.closed";
    pub const PROXY_OPENED: &str = "proxy.opened";
    pub const PROXY_REFUSED: &str = "proxy.refused";
    pub const PROXY_CLOSED: &str = "proxy.closed";
    pub const CONN_REFUSED: &str = "conn.refused";
    pub const CONN_CLOSED: &str = "conn.closed";
    pub const NODE_ENROLLED: &str = "node.enrolled";
    pub const NODE_ONLINE: &str = "node.online";
    pub const NODE_DEGRADED: &str = "node.degraded";
    pub const NODE_OFFLINE: &str = "node.offline";
    pub const NODE_DRAINED: &str = "node.drained";
    pub const NODE_CHANGED: &str = "node.changed";
    pub const NODE_KEY_ROTATED: &str = "node.key_rotated";
    pub const NODE_REACHED: &str = "node.reached";
    pub const NODE_CONFLICT: &str = "node.conflict";
    pub const NODE_CLOCK: &str = "node.clock";
    pub const ADMIN_NODE_CREATED: &str = "admin.node_created";
    pub const ADMIN_NODE_CHANGED: &str = "admin.node_changed";
    pub const ADMIN_NODE_DELETED: &str = "admin.node_deleted";
    pub const ADMIN_TOKEN_CREATED: &str = "admin.token_created";
    pub const ADMIN_TOKEN_REVOKED: &str = "admin.token_revoked";
    pub const ADMIN_TICKET_KEY_ROTATED: &str = "admin.ticket_key_rotated";
    pub const ADMIN_NODE_TOKEN: &str = "admin.node_token";
    pub const ADMIN_BACKUP: &str = "admin.backup";
    pub const ADMIN_RESTORED: &str = "admin.restored";
    pub const BAN_ADDED: &str = "ban.added";
    pub const BAN_LIFTED: &str = "ban.lifted";
    pub const AUDIT_LOST: &str = "audit.lost";
    pub const AUDIT_DROPPED: &str = "audit.dropped";
    pub const AUDIT_UNREADABLE: &str = "audit.unreadable";
    pub const AUDIT_FOREIGN: &str = "audit.foreign";
}

/// What an event is about, the same on the node and in the trail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(from = "Read")]
pub struct Subject {
    /// `session.opened`, …
    pub kind: String,
    /// The invite's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invite: Option<String>,
    /// The session's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The lease's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// The client's address (frpc's, or the person's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The proxy's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The pool port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Why it was refused. A reason that the reader does not know stands in `detail`, as
    /// `unknown_reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub reason: Option<Reason>,
    /// What else there is to say: a small object of this kind.
    #[serde(skip_serializing_if = "Value::is_null")]
    #[cfg_attr(feature = "openapi", schema(value_type = Value, required = false))]
    pub detail: Value,
}

/// What is written as a [`Subject`].
pub trait About: Serialize {
    /// Its kind.
    fn kind(&self) -> &str;
}

impl About for Subject {
    fn kind(&self) -> &str {
        &self.kind
    }
}

/// [`Subject`] as it comes, and [`NodeEvent`], with all fields at one level: a flattened part is read twice. One
/// reason of a newer version must not make a whole batch unreadable.
#[derive(Deserialize)]
struct Read {
    seq: Option<u64>,
    at_ms: Option<i64>,
    boot: Option<String>,
    kind: String,
    invite: Option<String>,
    session: Option<String>,
    lease: Option<String>,
    client: Option<String>,
    proxy: Option<String>,
    port: Option<u16>,
    reason: Option<String>,
    #[serde(default)]
    detail: Value,
}

impl From<Read> for Subject {
    fn from(read: Read) -> Self {
        let known = read.reason.as_deref().and_then(Reason::from_code);
        let detail = match read.reason {
            Some(code) if known.is_none() => with_unknown_reason(&code, read.detail),
            _ => read.detail,
        };
        Subject {
            kind: read.kind,
            invite: read.invite,
            session: read.session,
            lease: read.lease,
            client: read.client,
            proxy: read.proxy,
            port: read.port,
            reason: known,
            detail,
        }
    }
}

fn with_unknown_reason(code: &str, detail: Value) -> Value {
    let code: String = code.chars().take(MAX_CODE).collect();
    let mut detail = match detail {
        Value::Object(detail) => detail,
        Value::Null => serde_json::Map::new(),
        other => serde_json::Map::from_iter([("detail".to_owned(), other)]),
    };
    detail.insert("unknown_reason".to_owned(), code.into());
    Value::Object(detail)
}

/// One event as a node spools and sends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(try_from = "Read")]
pub struct NodeEvent {
    /// Runs on from 1 within one spool, across boots, without gaps.
    pub seq: u64,
    /// Unix milliseconds by the control plane's clock, as the node knows it.
    pub at_ms: i64,
    /// The boot id of the machine.
    pub boot: String,
    /// What happened.
    #[serde(flatten)]
    pub subject: Subject,
}

impl TryFrom<Read> for NodeEvent {
    type Error = String;

    fn try_from(mut read: Read) -> Result<Self, String> {
        let missing = |field: &str| format!("missing field `{field}`");
        Ok(NodeEvent {
            seq: read.seq.ok_or_else(|| missing("seq"))?,
            at_ms: read.at_ms.ok_or_else(|| missing("at_ms"))?,
            boot: read.boot.take().ok_or_else(|| missing("boot"))?,
            subject: read.into(),
        })
    }
}

/// `POST /nodes/events`: the next events of one spool, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventBatch {
    /// 128 random bits from the spool's creation, hex.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Hex32))]
    pub spool: String,
    /// Up to where the trail had this spool by an answer that the node has acted on: what it has
    /// forgotten. 0 = nothing, or a node that does not tell.
    #[serde(default)]
    pub after: u64,
    /// Rising `seq`, at most 500.
    #[cfg_attr(feature = "openapi", schema(max_items = 500))]
    pub events: Vec<NodeEvent>,
}

/// The answer: all up to `seq` are durable. Sending them again does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventsAccepted {
    /// The last seq of this spool that is in the trail; 0 = none.
    pub seq: u64,
}

/// Who did it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Actor {
    /// `admin`, `node`, `invite`, `anyone`, `system`.
    pub kind: String,
    /// The token's name, the node's or the invite's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Where the request came from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
}

/// One event of the audit trail, as `GET …/audit` shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEvent {
    /// Sorts by arrival.
    pub id: String,
    /// RFC 3339, UTC, milliseconds.
    pub at: String,
    /// Who did it.
    pub actor: Actor,
    /// The request that did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The node it happened on or is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The node's spool, for events that a node sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spool: Option<String>,
    /// The place in the spool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The machine's boot id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub subject: Subject,
}

/// A page of the trail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditPage {
    /// The events, oldest first.
    pub items: Vec<AuditEvent>,
    /// The cursor of the next page; absent at the end. Of the newest events the next page is the
    /// one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// At the end: the cursor of what comes after all that is there now, for `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<String>,
    /// Segment files that could not be read as a whole: events may be missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reason_of_a_newer_node_is_kept_in_the_detail() {
        let read = |reason: &str, detail: Value| {
            let event = json!({
                "seq": 1, "at_ms": 2, "boot": "b", "kind": "conn.refused",
                "reason": reason, "detail": detail,
            });
            let subject = serde_json::from_value::<NodeEvent>(event).unwrap().subject;
            (subject.reason, subject.detail)
        };
        let count = || json!({ "count": 3 });
        assert_eq!(
            read("max_conns", count()),
            (Some(Reason::MaxConns), count())
        );
        let kept = json!({ "count": 3, "unknown_reason": "max_moons" });
        assert_eq!(read("max_moons", count()), (None, kept));
        let (_, long) = read(&"x".repeat(500), Value::Null);
        assert_eq!(long["unknown_reason"].as_str().map(str::len), Some(40));
        let (_, wrapped) = read("max_moons", json!("text"));
        assert_eq!(wrapped["detail"], "text");
    }
}
