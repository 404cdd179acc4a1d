//! What stands in the store: records and where they stand.

pub mod key;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use totoro_api::limits::Limits;
use totoro_api::ports::Pool;
use totoro_api::ticket::Revision;
use totoro_api::wire::admin::TokenScope;
use totoro_api::wire::event::Actor;
use totoro_api::wire::node::{NewNode, Visibility};
use totoro_api::wire::push::{InviteState, PublicMax};

/// The store's incarnation: Unix milliseconds of its creation, so that a store made anew is newer
/// than the one it replaces.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Generation {
    /// The number in every (gen, rev).
    pub generation: u64,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub id: String,
    /// What the admin said of it.
    #[serde(flatten)]
    pub said: NewNodeFields,
    /// Takes nothing new.
    pub draining: bool,
    /// Takes nothing.
    pub disabled: bool,
    /// The keyed hash of its key; none before enrolment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key before it, while it still works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_key: Option<OldKey>,
    /// The installation that holds the key.
    pub instance: String,
    /// A stock frps without our daemon holds the key, and asks the control plane.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub callback: bool,
    /// Whether the key was used: until then the enrolment may be repeated.
    pub key_used: bool,
    /// The keyed hash of its enrolment token, where there is one: a newer one voids it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<String>,
    /// Unix seconds.
    pub created_at: i64,
}

/// A node's key that was replaced: it works until the new one's first use, or until its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldKey {
    /// Its keyed hash.
    pub hash: String,
    /// Unix seconds.
    pub until: i64,
}

/// [`NewNode`] as it is stored: newer versions may have written more fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewNodeFields {
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
    /// Whom to write to.
    pub abuse_contact: String,
}

impl From<NewNode> for NewNodeFields {
    fn from(new: NewNode) -> Self {
        let NewNode {
            name,
            visibility,
            server_addr,
            pool,
            defaults,
            public_limits,
            public_max,
            region,
            isp,
            tags,
            abuse_contact,
        } = new;
        NewNodeFields {
            name,
            visibility,
            server_addr,
            pool,
            defaults,
            public_limits,
            public_max,
            region,
            isp,
            tags,
            abuse_contact,
        }
    }
}

/// A one-time enrolment token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentRecord {
    /// Whose.
    pub node: String,
    /// Unix seconds.
    pub expires_at: i64,
    /// The keyed hash of the key that was enrolled with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_for: Option<String>,
}

/// An admin's token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminTokenRecord {
    /// Its name, the actor of what is done with it.
    pub name: String,
    /// What it may do.
    #[serde(default = "everything")]
    pub scopes: Vec<TokenScope>,
    /// Unix seconds; `None` = with the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<i64>,
    /// Unix seconds; `None` = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

impl AdminTokenRecord {
    /// One that comes with an installation: it may do everything, for ever.
    #[must_use]
    pub fn first(name: &str) -> Self {
        AdminTokenRecord {
            name: name.to_owned(),
            scopes: everything(),
            created_at: None,
            expires_at: None,
        }
    }
}

/// The scopes of tokens from before there were any.
fn everything() -> Vec<TokenScope> {
    vec![TokenScope::All]
}

/// A node that was removed, until all that it left is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneRecord {
    /// Who removed it.
    pub actor: Arc<Actor>,
    /// In which request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Arc<str>>,
}

/// An invite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InviteRecord {
    /// Its id.
    pub id: String,
    /// The node it is for.
    pub node: String,
    /// A name for people.
    pub label: String,
    /// Active, paused or revoked; expiry is derived.
    pub state: InviteState,
    /// Moves when what lives under it is to be cut.
    pub epoch: u32,
    /// What it allows.
    pub limits: Limits,
    /// The keyed hash of its code.
    pub code: String,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds; `None` = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Unix seconds: since when it has been revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<i64>,
    /// Free text for the lender.
    pub note: String,
}

impl InviteRecord {
    /// The state at a time, with expiry.
    #[must_use]
    pub fn state_at(&self, now: i64) -> InviteState {
        match (self.state, self.expires_at) {
            (InviteState::Revoked, _) => InviteState::Revoked,
            (_, Some(at)) if at <= now => InviteState::Expired,
            (state, _) => state,
        }
    }

    /// Since when it is over at `now`, Unix seconds; `None` where it is not.
    #[must_use]
    pub fn over_since(&self, now: i64) -> Option<i64> {
        match self.state_at(now) {
            InviteState::Revoked => self.revoked_at,
            InviteState::Expired => self.expires_at,
            InviteState::Active | InviteState::Paused | InviteState::Unknown => None,
        }
    }
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanRecord {
    /// Its id.
    pub id: String,
    /// The prefix, host bits cleared.
    pub prefix: ipnet::IpNet,
    /// Unix seconds; `None` = until lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Why.
    pub note: String,
    /// Unix seconds.
    pub created_at: i64,
}

/// One entry of a node's policy log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// This invite.
    Invite(String),
    /// These invites, at most [`Change::MAX_INVITES`].
    Invites(Vec<String>),
    /// The node itself.
    Node,
    /// Its bans.
    Bans,
    /// Sessions to end.
    Kicks,
    /// The ticket keys.
    Keys,
}

impl Change {
    /// The most invites that one entry names: an entry must fit the store's values.
    pub const MAX_INVITES: usize = 100;
}

/// What a node said that it has applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedRecord {
    /// Where it stands.
    #[serde(flatten)]
    pub revision: Revision,
    /// The ticket keys that it knows.
    pub keys: Vec<String>,
    /// Why the newest could not be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether a node is online, as the trail last said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PresenceRecord {
    /// Online, or offline.
    pub online: bool,
    /// Why it is degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// Where a node was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachRecord {
    /// Those of its addresses that the control plane has connected to.
    pub addresses: Vec<String>,
}

/// A session that was kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KickRecord {
    /// The node has applied it.
    pub done: bool,
    /// Until when it waits for that, Unix seconds; absent where an earlier version wrote it: until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

impl KickRecord {
    /// Whether its node is still to end the session.
    pub(crate) fn waits(self, now: i64) -> bool {
        !self.done && self.until.is_none_or(|until| now < until)
    }
}

/// How far a spool has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolRecord {
    /// The last seq in the trail.
    pub seq: u64,
    /// Up to this seq events may be missing: an `audit.lost` in the trail tells of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missing_to: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands the field by reference"
)]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// A request with an Idempotency-Key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    /// The keyed hash of what was asked.
    pub request: String,
    /// What it made or changed: an invite, a node or a ban.
    pub made: String,
    /// Which derived code or token it got.
    pub index: u32,
    /// Unix seconds: forgotten then.
    pub expires_at: i64,
}
