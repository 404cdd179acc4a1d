//! Desired state: what the control plane pushes to one node, and what the node answers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits::Limits;
use crate::ports::Pool;
use crate::ticket::Revision;

/// How long a stream is silent at most: a client that hears nothing for twice this is cut off, and proxies close
/// after a minute.
pub const ALIVE: Duration = Duration::from_secs(20);

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
    /// One of a newer control plane's: nobody can say what it admits, so nothing.
    #[serde(other)]
    Unknown,
}

/// One invite as a node is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ban {
    /// The ban's id.
    pub id: String,
    /// An address or a prefix.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub prefix: ipnet::IpNet,
    /// Unix seconds; `None` = until lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// A public key that tickets for this node may be signed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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

/// Ceilings of all anonymous tenants together. Those of a newer control plane that a node does not
/// know are ignored: they bound what it lends, not what it promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
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

/// [`PublicMax`] as people write it: what is not known is an error that names it.
pub(super) fn written_public_max<'de, D>(deserializer: D) -> Result<PublicMax, D::Error>
where
    D: Deserializer<'de>,
{
    const FIELDS: &[&str] = &["tenants", "sessions", "leases", "conns"];
    let mut max = PublicMax::default();
    for (name, value) in BTreeMap::<String, u32>::deserialize(deserializer)? {
        let field = match name.as_str() {
            "tenants" => &mut max.tenants,
            "sessions" => &mut max.sessions,
            "leases" => &mut max.leases,
            "conns" => &mut max.conns,
            _ => return Err(D::Error::unknown_field(&name, FIELDS)),
        };
        *field = value;
    }
    Ok(max)
}

/// One answer of `GET /nodes/watch?wait=…` and one SSE event.
///
/// `snapshot = true`: this is everything, what is not in it is gone. Otherwise: upserts in
/// `invites`, tombstones in `gone`, and the other members only where they changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    /// Sessions to end, by id: named until the node has applied it. One that is not there has
    /// ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kicks: Vec<String>,
}

/// `POST /nodes/applied`, and what the node's view shows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Applied {
    /// What the node stands at now.
    #[serde(flatten)]
    pub revision: Revision,
    /// Ids of the ticket keys that it knows.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<crate::openapi::Kid>, max_items = 16))]
    pub keys: Vec<String>,
    /// Why the pushed state could not be applied; the last good one holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::node::{ChangeNode, NewNode};
    use serde_json::json;

    #[test]
    fn what_is_new_in_a_push_makes_nothing_else_unreadable() {
        let invite = |id: &str, state: &str, types: &[&str]| json!({ "id": id, "state": state, "epoch": 1, "limits": { "types": types } });
        let pushed = json!({
            "gen": 1, "rev": 2, "snapshot": true,
            "node": { "pool": {}, "public_max": { "tenants": 3, "moons": 4 } },
            "invites": [
                invite("a", "active", &["tcp"]),
                invite("b", "active", &["tcp", "sctp"]),
                invite("c", "frozen", &["tcp"]),
            ],
        });
        let state: DesiredState = serde_json::from_value(pushed).unwrap();
        assert_eq!(state.node.unwrap().public_max.tenants, 3);
        let [a, b, c] = &state.invites[..] else {
            panic!("{:?}", state.invites)
        };
        assert!(a.limits.unknown.is_empty() && !b.limits.unknown.is_empty());
        assert_eq!(c.state, InviteState::Unknown);
        // What was not understood is passed on as it came.
        let again = serde_json::to_value(&b.limits).unwrap();
        assert_eq!(again, json!({ "types": ["tcp", "sctp"] }));
    }

    #[test]
    fn people_are_told_what_is_unknown() {
        let change = |max| serde_json::from_value::<ChangeNode>(json!({ "public_max": max }));
        assert_eq!(
            change(json!({ "tenants": 3 }))
                .unwrap()
                .public_max
                .unwrap()
                .tenants,
            3
        );
        let error = change(json!({ "moons": 3 })).unwrap_err().to_string();
        assert!(error.contains("unknown field `moons`"), "{error}");
        let new = json!({ "name": "n", "server_addr": [], "pool": {}, "public_max": { "x": 1 } });
        assert!(serde_json::from_value::<NewNode>(new).is_err());
    }
}
