//! Desired state: what the control plane pushes to one node, and what the node answers.

use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::ports::Pool;
use crate::ticket::Revision;

/// An invite's state. `expired` is derived from the time, and shown, never pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InviteState {
    /// Admits.
    Active,
    /// Refuses what is new; what lives goes on.
    Paused,
    /// Final; what lives is cut.
    Revoked,
    /// Its time is over; what lives is cut.
    Expired,
}

/// One invite as a node is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DesiredInvite {
    /// The invite's id.
    pub id: String,
    /// Active, paused or revoked.
    pub state: InviteState,
    /// Sessions of an older epoch are cut.
    pub epoch: u32,
    /// Its limits, not yet over the node's defaults.
    pub limits: Limits,
    /// Unix seconds by the control plane's clock; `None` = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// A source that may not reach the node's pool or frps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The ban's id.
    pub id: String,
    /// An address or a prefix.
    pub prefix: ipnet::IpNet,
    /// Unix seconds; `None` = until lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// A public key that tickets for this node may be signed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKey {
    /// The key's id, in the ticket's footer.
    pub kid: String,
    /// The Ed25519 public key, base64url without padding.
    pub public: String,
    /// Unix seconds; tickets signed before are forged.
    pub not_before: i64,
    /// Unix seconds; tickets signed after are forged.
    pub expires: i64,
}

/// What the node itself may do and lends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DesiredNode {
    /// Takes nothing new.
    #[serde(default)]
    pub draining: bool,
    /// Takes nothing, and what lives is cut.
    #[serde(default)]
    pub disabled: bool,
    /// Anyone may connect within `public_limits`.
    #[serde(default)]
    pub public: bool,
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
}

/// Ceilings of all anonymous tenants together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublicMax {
    /// Anonymous tenants at once.
    pub tenants: u32,
    /// Their sessions.
    pub sessions: u32,
    /// Their leases.
    pub leases: u32,
    /// Their TCP user connections.
    pub conns: u32,
}

impl Default for PublicMax {
    fn default() -> Self {
        PublicMax {
            tenants: 50,
            sessions: 50,
            leases: 100,
            conns: 500,
        }
    }
}

/// One answer of `GET /nodes/watch?wait=…` and one SSE event.
///
/// `snapshot = true`: this is everything, what is not in it is gone. Otherwise: upserts in
/// `invites`, tombstones in `gone`, and the other members only where they changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DesiredState {
    /// What a node that applied this stands at.
    #[serde(flatten)]
    pub revision: Revision,
    /// Everything, or only what changed since.
    pub snapshot: bool,
    /// The node itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<DesiredNode>,
    /// Invites: all, or those that changed.
    #[serde(default)]
    pub invites: Vec<DesiredInvite>,
    /// Ids of invites that are no more.
    #[serde(default)]
    pub gone: Vec<String>,
    /// All bans, where they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bans: Option<Vec<Ban>>,
    /// All live ticket keys, where they changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<TicketKey>>,
}

/// `POST /nodes/applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What the node stands at now.
    #[serde(flatten)]
    pub revision: Revision,
    /// Ids of the ticket keys that it knows.
    pub keys: Vec<String>,
    /// Why the pushed state could not be applied; the last good one holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
