//! Nodes: enrolment, heartbeats, the public list.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Reason;
use crate::limits::Limits;
use crate::ports::Pool;
use crate::ticket::Revision;
use crate::wire::push::PublicMax;

/// How a node's limits are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Our programs run in the node's kernel.
    Kernel,
    /// A stock frps asks the control plane; no kernel limits.
    #[default]
    Callback,
}

/// Who may use a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[serde(deny_unknown_fields)]
pub struct NewNode {
    /// Its name, unique: letters, digits, `-`, at most 63.
    pub name: String,
    /// Who may use it.
    #[serde(default)]
    pub visibility: Visibility,
    /// Where clients reach frps: `host:port`, `[v6]:port`.
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
    #[serde(default)]
    pub public_max: PublicMax,
    /// Where it stands, e.g. `eu-west`.
    #[serde(default)]
    pub region: String,
    /// Whose network it is in.
    #[serde(default)]
    pub isp: String,
    /// Free words.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Whom a banned or abused person may write to.
    #[serde(default)]
    pub abuse_contact: String,
}

/// The answer: the token is shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
pub struct Enroll {
    /// BLAKE3 of the node key's text, hex. The control plane stores a keyed hash of it.
    pub key_hash: String,
    /// 128 random bits of this installation, hex.
    pub instance: String,
}

/// `PATCH /admin/nodes/{id}`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_max: Option<PublicMax>,
    /// Where it stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whose network it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isp: Option<String>,
    /// Free words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Whom a banned or abused person may write to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abuse_contact: Option<String>,
}

/// Whether a node serves, as everyone sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Why it is degraded, or could not apply its policy; one line each.
    pub problems: Vec<String>,
    /// How limits are enforced.
    pub grade: Grade,
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
    /// What the node has applied of it.
    pub applied: Revision,
    /// For `If-Match`.
    pub version: u64,
}

/// A page of nodes, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodePage {
    /// The nodes.
    pub items: Vec<Node>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A page of `GET /public/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PublicNodePage {
    /// The nodes.
    pub items: Vec<PublicNode>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The answer to `POST /nodes/enroll`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

/// `POST /nodes/heartbeat`. Held in memory by the control plane, with coalesced snapshots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// This installation.
    pub instance: String,
    /// The machine's boot id.
    pub boot: String,
    /// Seconds since boot.
    pub uptime_s: u64,
    /// The daemon's version.
    pub agent_version: String,
    /// frps's version, from its admin API; empty when it does not answer.
    pub frps_version: String,
    /// The kernel's release.
    pub kernel_version: String,
    /// What this node can enforce: `max_conns`, `max_flows`, …
    pub features: Vec<String>,
    /// How limits are enforced.
    pub grade: Grade,
    /// What is missing for a better grade, one line each.
    pub missing: Vec<String>,
    /// CPU in use, percent of all cores.
    pub cpu_percent: f32,
    /// One-minute load average.
    pub load1: f32,
    /// Memory, bytes.
    pub mem_total: u64,
    /// Memory that could be had, bytes.
    pub mem_available: u64,
    /// Per interface.
    pub interfaces: Vec<InterfaceMetrics>,
    /// TCP sockets in use.
    pub tcp_sockets: u64,
    /// UDP sockets in use.
    pub udp_sockets: u64,
    /// frpc sessions now.
    pub sessions: u32,
    /// Leases now.
    pub leases: u32,
    /// Free ports of the pool now: `tcp`, `udp`.
    pub free_ports: BTreeMap<String, u32>,
    /// User connections now.
    pub conns: u64,
    /// UDP flows now.
    pub flows: u64,
    /// User connections admitted since the programs were loaded.
    pub admitted: u64,
    /// Refusals by reason since the programs were loaded.
    pub refused: BTreeMap<String, u64>,
    /// What of the desired state is applied.
    pub applied: Revision,
    /// Events waiting to be delivered.
    pub spool_depth: u64,
    /// The control plane's clock less the node's, ms, as the node knows it.
    pub clock_offset_ms: i64,
    /// frps's CA, PEM, for clients to verify it; public.
    pub tls_ca: String,
    /// What each tenant does now, for `invites/usage`.
    pub tenants: Vec<TenantUsage>,
}

/// One interface's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceMetrics {
    /// Its name.
    pub name: String,
    /// Received, bytes/s over the last heartbeat interval.
    pub rx_bytes_s: u64,
    /// Sent, bytes/s over the last heartbeat interval.
    pub tx_bytes_s: u64,
    /// Dropped since boot, both ways.
    pub drops: u64,
    /// `native`, `generic`, `tc`, or empty when no filter of ours is on it.
    pub filter: String,
}

/// What one invite (or one anonymous prefix) does on the node now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantUsage {
    /// The invite's id, or `public:<prefix>`.
    pub tenant: String,
    /// TCP user connections now.
    pub conns: u64,
    /// UDP flows now.
    pub flows: u64,
    /// TCP user connections admitted so far.
    pub admitted: u64,
    /// Bytes from users so far.
    pub bytes_in: u64,
    /// Bytes to users so far.
    pub bytes_out: u64,
    /// Refusals by reason so far, the kernel's and the plugin's.
    pub refused: BTreeMap<Reason, u64>,
    /// Sessions now.
    pub sessions: Vec<SessionUsage>,
    /// Leases now.
    pub leases: Vec<LeaseUsage>,
}

/// One frpc session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionUsage {
    /// The session's id.
    pub id: String,
    /// Where frpc comes from.
    pub client: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// frpc's version.
    pub frpc_version: String,
}

/// One leased port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseUsage {
    /// The proxy's name, without the user prefix.
    pub proxy: String,
    /// `tcp` or `udp`.
    #[serde(rename = "type")]
    pub protocol: String,
    /// The node's address for users.
    pub address: String,
    /// The public port.
    pub port: u16,
    /// Since when, RFC 3339.
    pub since: String,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// The node's newest policy revision: a hint to watch again.
    #[serde(flatten)]
    pub revision: Revision,
    /// The control plane's clock, Unix milliseconds.
    pub now_ms: i64,
    /// When to send the next, seconds.
    pub interval_s: u32,
}

/// One entry of `GET /public/nodes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
