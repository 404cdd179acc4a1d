//! Audit events: what a node sends, and what the trail holds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Reason;

/// What happened, as the contract names it. Unknown kinds of newer nodes are kept as they are.
pub mod kind {
    #![allow(missing_docs, reason = "each constant is its own name")]
    #![allow(
        clippy::allow_attributes,
        reason = "expect() does not fire on constants that are documented by name"
    )]
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
    pub const ADMIN_NODE_CREATED: &str = "admin.node_created";
    pub const ADMIN_NODE_CHANGED: &str = "admin.node_changed";
    pub const ADMIN_NODE_TOKEN: &str = "admin.node_token";
    pub const ADMIN_BACKUP: &str = "admin.backup";
    pub const ADMIN_RESTORED: &str = "admin.restored";
    pub const BAN_ADDED: &str = "ban.added";
    pub const BAN_LIFTED: &str = "ban.lifted";
    pub const AUDIT_LOST: &str = "audit.lost";
}

/// What an event is about, the same on the node and in the trail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// `session.opened`, …
    pub kind: String,
    /// The invite's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<String>,
    /// The session's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The lease's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// The client's address (frpc's, or the person's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The proxy's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The pool port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What else there is to say: a small object of this kind.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// One event as a node spools and sends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// `POST /nodes/events`: the next events of one spool, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventBatch {
    /// 128 random bits from the spool's creation, hex.
    pub spool: String,
    /// Rising `seq`, at most 500.
    pub events: Vec<NodeEvent>,
}

/// The answer: all up to `seq` are durable. Sending them again does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsAccepted {
    /// The last seq of this spool that is in the trail; 0 = none.
    pub seq: u64,
}

/// Who did it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct AuditPage {
    /// The events, oldest first.
    pub items: Vec<AuditEvent>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
