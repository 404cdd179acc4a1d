//! Invites: making, changing, resolving, using.

use serde::{Deserialize, Serialize};

use crate::limits::{Effective, Limits};
use crate::wire::node::{Grade, NodeState, TenantUsage};
use crate::wire::push::InviteState;

/// `POST /nodes/invites` (and `/admin/invites`, which names the node).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct NewInvite {
    /// The node, where the caller may choose it (admin); a node's own key needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// A name for people, at most 80 characters.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Label))]
    pub label: String,
    /// What it allows.
    pub limits: Limits,
    /// RFC 3339, to come; absent = never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::TimeOrNever>))]
    pub expires_at: Option<String>,
    /// Free text for the lender.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Note))]
    pub note: String,
    /// So many at once, all alike, at most [`MAX_COUNT`]: the answer is then an [`InvitePage`] with
    /// their codes. `{n}` in the label is each one's number, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    pub count: Option<u32>,
}

/// The most invites of one request.
pub const MAX_COUNT: u32 = 1000;

/// `PATCH /nodes/invites/{id}`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ChangeInvite {
    /// `active` resumes, `paused` pauses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Resumable>))]
    pub state: Option<InviteState>,
    /// Replaces the limits whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// RFC 3339, or `""` for never; one in the past ends it now, and a later change may revive it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::TimeOrNever>))]
    pub expires_at: Option<String>,
    /// A new label.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Label>))]
    pub label: Option<String>,
    /// A new note.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Note>))]
    pub note: Option<String>,
}

/// An invite as the lender sees it. The ETag of a single one is its `version`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Invite {
    /// Its id; also frpc's `user`.
    pub id: String,
    /// The node it is for.
    pub node: String,
    /// A name for people.
    pub label: String,
    /// Whether it admits.
    pub state: InviteState,
    /// Moves when what lives under it is to be cut.
    pub epoch: u32,
    /// What it allows.
    pub limits: Limits,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339; absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Free text for the lender.
    pub note: String,
    /// For `If-Match`.
    pub version: u64,
    /// The code: only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same code in capitals and digits alone, which a QR code holds most densely: only beside
    /// `code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_qr: Option<String>,
}

/// A page of invites.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InvitePage {
    /// The invites, in the order of their ids.
    pub items: Vec<Invite>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `POST /invites/resolve` and `POST /invites/usage`: the code travels in the body only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// `tn1-…`
    pub code: String,
}

/// The answer to `POST /invites/resolve`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resolved {
    /// The invite's id.
    pub invite: String,
    /// When the invite ends, RFC 3339; absent where it ends when somebody ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite_expires_at: Option<String>,
    /// The node's id.
    pub node: String,
    /// Its name.
    pub node_name: String,
    /// Where frpc connects.
    pub server_addr: Vec<String>,
    /// What holds for the holder.
    pub limits: Effective,
    /// What is in use now.
    pub usage: TenantUsage,
    /// A ticket, for those who carry it themselves.
    pub ticket: String,
    /// Until when the ticket is good, RFC 3339.
    pub ticket_expires_at: String,
    /// When to fetch the next, RFC 3339.
    pub renew_after: String,
    /// A ready frpc.toml. It has the code in it: a secret, mode 0600.
    pub frpc_toml: String,
    /// One command to paste.
    pub command: String,
    /// frps's CA, PEM; empty where the node has none.
    pub tls_ca: String,
    /// How limits are enforced.
    #[serde(default)]
    pub grade: Grade,
    /// Limits that this grade cannot hold.
    #[serde(default)]
    pub unenforced: Vec<String>,
}

/// The answer to `POST /public/nodes/{id}/ticket`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublicTicket {
    /// The node's id.
    pub node: String,
    /// Its name.
    pub node_name: String,
    /// Where frpc connects.
    pub server_addr: Vec<String>,
    /// What holds for one anonymous tenant.
    pub limits: Effective,
    /// A ticket, for those who carry it themselves.
    pub ticket: String,
    /// Until when the ticket is good, RFC 3339.
    pub ticket_expires_at: String,
    /// When to fetch the next, RFC 3339.
    pub renew_after: String,
    /// A ready frpc.toml; it fetches tickets by itself and holds no secret.
    pub frpc_toml: String,
    /// frps's CA, PEM; empty where the node has none.
    pub tls_ca: String,
    /// How limits are enforced.
    #[serde(default)]
    pub grade: Grade,
    /// Limits that this grade cannot hold.
    #[serde(default)]
    pub unenforced: Vec<String>,
}

/// The answer to `POST /oauth/token` (RFC 6749, 5.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccessToken {
    /// The ticket.
    pub access_token: String,
    /// `Bearer`.
    pub token_type: String,
    /// The ticket's life from now, seconds.
    pub expires_in: u64,
}

/// An error of `POST /oauth/token` (RFC 6749, 5.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OauthError {
    /// `invalid_client`, `invalid_request`, …
    pub error: String,
    /// The refusal's line, which frpc prints.
    pub error_description: String,
}

/// The answer to `POST /invites/usage`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usage {
    /// The invite's id.
    pub invite: String,
    /// Whether it admits.
    pub state: InviteState,
    /// When it ends, RFC 3339; absent where it ends when somebody ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// What holds for the holder.
    pub limits: Effective,
    /// What is in use now, and what was refused.
    #[serde(flatten)]
    pub usage: TenantUsage,
    /// How old the node's figures are, seconds.
    pub age_s: u64,
    /// Whether the node serves; absent in what an older control plane answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_state: Option<NodeState>,
    /// How limits are enforced.
    #[serde(default)]
    pub grade: Grade,
    /// Limits that this grade cannot hold.
    #[serde(default)]
    pub unenforced: Vec<String>,
}
