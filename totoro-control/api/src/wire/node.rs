//! Nodes: enrolment, the admin's view, the public list.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::ports::Pool;
use crate::ticket::Revision;
pub use crate::wire::heartbeat::{
    Grade, Heartbeat, HeartbeatAnswer, InterfaceMetrics, LeaseUsage, SessionUsage, TenantUsage,
};
use crate::wire::push::{Applied, PublicMax, written_public_max};

/// Who may use a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Holders of an invite.
    #[default]
    Private,
    /// Anyone, within the public limits.
    Public,
}

/// `POST /admin/nodes`: a node and its one-time enrolment token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewNode {
    /// Its name, unique: letters, digits, `-`, at most 63.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::NodeName))]
    pub name: String,
    /// Who may use it.
    #[serde(default)]
    pub visibility: Visibility,
    /// Where clients reach frps: `host:port`, `[v6]:port`.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::HostPort>, min_items = 1, max_items = 8))]
    pub server_addr: Vec<String>,
    /// The ports it lends.
    pub pool: Pool,
    /// What an invite that says nothing gets.
    #[serde(default)]
    pub defaults: Limits,
    /// What one anonymous tenant gets.
    #[serde(default)]
    pub public_limits: Limits,
    /// Ceilings of all anonymous tenants together.
    #[serde(default, deserialize_with = "written_public_max")]
    pub public_max: PublicMax,
    /// Where it stands, e.g. `eu-west`.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text120))]
    pub region: String,
    /// Whose network it is in.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text120))]
    pub isp: String,
    /// Free words.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Tag>, max_items = 16))]
    pub tags: Vec<String>,
    /// Whom a banned or abused person may write to.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Text120))]
    pub abuse_contact: String,
}

/// The answer: the token is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeCreated {
    /// The node's id.
    pub id: String,
    /// The one-time enrolment token.
    pub token: String,
    /// Until when the token is good, RFC 3339.
    pub token_expires_at: String,
}

/// `POST /nodes/enroll`, with the token as Bearer. The key is made by the node; only its hash
/// travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Enroll {
    /// BLAKE3 of the node key's text, hex. The control plane stores a keyed hash of it.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Hex64))]
    pub key_hash: String,
    /// 128 random bits of this installation, hex.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Hex32))]
    pub instance: String,
    /// The key is for a stock frps without our daemon (grade `callback`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub callback: bool,
}

/// `PATCH /admin/nodes/{id}`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ChangeNode {
    /// Who may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// Takes nothing new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
    /// Takes nothing, and what lives is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Where clients reach frps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::openapi::HostPort>>, min_items = 1, max_items = 8))]
    pub server_addr: Option<Vec<String>>,
    /// The ports it lends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Pool>,
    /// What an invite that says nothing gets; replaced whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Limits>,
    /// What one anonymous tenant gets; replaced whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_limits: Option<Limits>,
    /// Ceilings of all anonymous tenants together; replaced whole.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "maybe_written"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = PublicMax, required = false))]
    pub public_max: Option<PublicMax>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text120>))]
    pub region: Option<String>,
    /// Whose network it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text120>))]
    pub isp: Option<String>,
    /// Free words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::openapi::Tag>>, max_items = 16))]
    pub tags: Option<Vec<String>>,
    /// Whom a banned or abused person may write to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text120>))]
    pub abuse_contact: Option<String>,
}

/// `PATCH /nodes/self`: what a lender may change of the own node; what is absent stays. Whether it
/// is public, its addresses, its pool and all that concerns others are an admin's to say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ChangeSelf {
    /// Takes nothing new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
    /// What an invite that says nothing gets; replaced whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defaults: Option<Limits>,
    /// What one anonymous tenant gets; replaced whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_limits: Option<Limits>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text120>))]
    pub region: Option<String>,
    /// Whose network it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text120>))]
    pub isp: Option<String>,
    /// Free words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<crate::openapi::Tag>>, max_items = 16))]
    pub tags: Option<Vec<String>>,
    /// Whom a banned or abused person may write to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Text120>))]
    pub abuse_contact: Option<String>,
}

impl From<ChangeSelf> for ChangeNode {
    fn from(change: ChangeSelf) -> Self {
        let ChangeSelf {
            draining,
            defaults,
            public_limits,
            region,
            isp,
            tags,
            abuse_contact,
        } = change;
        ChangeNode {
            draining,
            defaults,
            public_limits,
            region,
            isp,
            tags,
            abuse_contact,
            ..ChangeNode::default()
        }
    }
}

/// `POST /nodes/self/key`: a new key, made by the node; only its hash travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// BLAKE3 of the key's text, hex.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Hex64))]
    pub key_hash: String,
}

/// The answer: the new key is good from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyRotated {
    /// Until when the old key works, RFC 3339, if the new one is not used before; absent when it no
    /// longer does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_until: Option<String>,
}

fn maybe_written<'de, D>(deserializer: D) -> Result<Option<PublicMax>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    written_public_max(deserializer).map(Some)
}

/// Whether a node serves, as everyone sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Heartbeats arrive and nothing is wrong.
    Online,
    /// Heartbeats arrive, something does not work.
    Degraded,
    /// Three heartbeats in a row were missed, or none ever came.
    #[default]
    Offline,
    /// Takes nothing new, by its operator's will.
    Draining,
    /// Switched off by an admin.
    Disabled,
}

/// A node as its lender and the admins see it. The ETag of a single one is its `version`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who may use it.
    pub visibility: Visibility,
    /// Where clients reach frps.
    pub server_addr: Vec<String>,
    /// The ports it lends.
    pub pool: Pool,
    /// What an invite that says nothing gets.
    pub defaults: Limits,
    /// What one anonymous tenant gets.
    pub public_limits: Limits,
    /// Ceilings of all anonymous tenants together.
    pub public_max: PublicMax,
    /// Where it stands.
    pub region: String,
    /// Whose network it is in.
    pub isp: String,
    /// Free words.
    pub tags: Vec<String>,
    /// Whom a banned or abused person may write to.
    pub abuse_contact: String,
    /// Whether it serves.
    pub state: NodeState,
    /// Takes nothing new, by its operator's will; `state` says so while it is heard of.
    #[serde(default)]
    pub draining: bool,
    /// Whether an installation holds it now: it is heard of, or was when the control plane last ran and
    /// has had no time since.
    #[serde(default)]
    pub live: bool,
    /// Why it is degraded, or could not apply its policy; one line each.
    pub problems: Vec<String>,
    /// Addresses of a public node that it is not listed with, and why; one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlisted: Vec<String>,
    /// How limits are enforced; `callback` where that is not known.
    pub grade: Grade,
    /// The same, where it is known: absent before the enrolment, and of a node that has not reported
    /// since the control plane started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_grade: Option<Grade>,
    /// Limits that this grade cannot hold.
    pub unenforced: Vec<String>,
    /// What it can enforce, as it reports.
    pub features: Vec<String>,
    /// The installation that holds the node's key; empty before enrolment.
    pub instance: String,
    /// `agent`, `frps`, `kernel`.
    pub versions: BTreeMap<String, String>,
    /// Seconds since the last heartbeat; absent when none came since the control plane started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_s: Option<u64>,
    /// The newest policy.
    pub policy: Revision,
    /// What the node has applied of it, which ticket keys it knows, and what it could not apply.
    pub applied: Applied,
    /// For `If-Match`.
    pub version: u64,
}

/// A page of nodes, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodePage {
    /// The nodes.
    pub items: Vec<Node>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A page of `GET /public/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublicNodePage {
    /// The nodes.
    pub items: Vec<PublicNode>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The answer to `POST /nodes/enroll`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Enrolled {
    /// The node's id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// The ports it lends, for the first frps configuration.
    pub pool: Pool,
    /// Where clients reach frps.
    pub server_addr: Vec<String>,
}

/// One entry of `GET /public/nodes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PublicNode {
    /// The node's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub region: String,
    /// Whose network it is in.
    pub isp: String,
    /// Free words.
    pub tags: Vec<String>,
    /// Where clients reach frps.
    pub server_addr: Vec<String>,
    /// Whether it serves.
    pub state: NodeState,
    /// How limits are enforced.
    pub grade: Grade,
    /// Limits that this grade cannot hold.
    pub unenforced: Vec<String>,
    /// Free ports per protocol.
    pub free_ports: BTreeMap<String, u32>,
    /// What an anonymous tenant gets.
    pub public_limits: Limits,
    /// `agent`, `frps`, `kernel`.
    pub versions: BTreeMap<String, String>,
    /// CPU in use, percent.
    pub cpu_percent: f32,
    /// One-minute load average.
    pub load1: f32,
    /// Seconds since the last heartbeat.
    pub seen_s: u64,
    /// Whom to write to.
    pub abuse_contact: String,
}

impl PublicNode {
    /// Free ports of a protocol.
    #[must_use]
    pub fn free_of(&self, protocol: &str) -> u32 {
        self.free_ports.get(protocol).copied().unwrap_or(0)
    }

    /// Free ports of all protocols.
    #[must_use]
    pub fn free(&self) -> u32 {
        let all = self.free_ports.values();
        all.fold(0, |sum, free| sum.saturating_add(*free))
    }
}
