//! What stands in the store: records and where they stand.

use serde::{Deserialize, Serialize};
use totoro_api::limits::Limits;
use totoro_api::ports::Pool;
use totoro_api::ticket::Revision;
use totoro_api::wire::admin::TokenScope;
use totoro_api::wire::event::Actor;
use totoro_api::wire::node::{NewNode, Visibility};
use totoro_api::wire::push::{InviteState, PublicMax};

/// Keys of the store. Ids reach them only after [`crate::app::checked_id`], so no id can name
/// another record's key.
pub mod key {
    /// The store's incarnation: a [`super::Generation`].
    pub const GENERATION: &str = "meta/generation";
    /// Under it: all nodes by id.
    pub const NODES: &str = "node/";
    /// Under it: admin tokens by their keyed hashes.
    pub const ADMIN_TOKENS: &str = "admin_token/";
    /// What all changes of admin tokens write.
    pub const TOKENS_TURN: &str = "meta/admin_tokens";
    /// Under it: nodes that were removed, while they still have left something.
    pub const GONE: &str = "gone/";
    /// Under it: all invites by id.
    pub const INVITES: &str = "invite/";
    /// Under it: `<unix, 20 digits>/<invite>` for invites that will expire.
    pub const EXPIRIES: &str = "expiry/";
    /// Under it: `<unix, 20 digits>/<key>` of remembered requests.
    pub const IDEMPOTENCY_ENDS: &str = "idempotency_end/";
    /// Under it: `<node>/<session>` of sessions that were kicked.
    pub const KICKS: &str = "kick/";
    /// Under it: `<unix, 20 digits>/<node>/<session>` of kicks that will be forgotten.
    pub const KICK_ENDS: &str = "kick_end/";
    /// Under it: all bans of all nodes.
    pub const GLOBAL_BANS: &str = "ban/all/";
    /// There while nodes are still to be told that bans of all nodes changed.
    pub const BANS_UNTOLD: &str = "meta/bans_untold";
    /// Which ticket keys all nodes have been told of.
    pub const KEYS_TOLD: &str = "meta/keys_told";
    /// Under it: `<unix, 20 digits>/<node>` of nodes whose old key will end.
    pub const KEY_ENDS: &str = "key_end/";
    /// Under it: `<unix, 20 digits>/<key>` of bans that will end.
    pub const BAN_ENDS: &str = "ban_end/";

    /// A node.
    #[must_use]
    pub fn node(id: &str) -> String {
        format!("{NODES}{id}")
    }

    /// A node's id by its name.
    #[must_use]
    pub fn node_name(name: &str) -> String {
        format!("node_name/{name}")
    }

    /// A node's id by the keyed hash of its key.
    #[must_use]
    pub fn node_key(hash: &str) -> String {
        format!("node_key/{hash}")
    }

    /// A mark that this node's old key ends then.
    #[must_use]
    pub fn key_end(at: i64, node: &str) -> String {
        format!("{KEY_ENDS}{:020}/{node}", at.max(0))
    }

    /// An enrolment token by its keyed hash.
    #[must_use]
    pub fn enrolment(hash: &str) -> String {
        format!("enrolment/{hash}")
    }

    /// An admin token by its keyed hash.
    #[must_use]
    pub fn admin_token(hash: &str) -> String {
        format!("{ADMIN_TOKENS}{hash}")
    }

    /// When an admin token was last used, Unix seconds.
    #[must_use]
    pub fn token_used(hash: &str) -> String {
        format!("admin_token_used/{hash}")
    }

    /// A mark that what this node left is to be removed.
    #[must_use]
    pub fn gone(node: &str) -> String {
        format!("{GONE}{node}")
    }

    /// An invite.
    #[must_use]
    pub fn invite(id: &str) -> String {
        format!("{INVITES}{id}")
    }

    /// Under it: a node's invites by id.
    #[must_use]
    pub fn invites_of(node: &str) -> String {
        format!("node_invite/{node}/")
    }

    /// An invite's id by the keyed hash of its code.
    #[must_use]
    pub fn code(hash: &str) -> String {
        format!("code/{hash}")
    }

    /// A mark that an invite ends then.
    #[must_use]
    pub fn expiry(at: i64, invite: &str) -> String {
        format!("{EXPIRIES}{:020}/{invite}", at.max(0))
    }

    /// Under it: everything about one node's policy; what its watch follows.
    #[must_use]
    pub fn policy(node: &str) -> String {
        format!("policy/{node}/")
    }

    /// The revision of this key is the node's policy revision.
    #[must_use]
    pub fn policy_head(node: &str) -> String {
        format!("policy/{node}/head")
    }

    /// Under it, appended: what changed.
    #[must_use]
    pub fn policy_log(node: &str) -> String {
        format!("policy/{node}/log/")
    }

    /// What the node has applied.
    #[must_use]
    pub fn applied(node: &str) -> String {
        format!("applied/{node}")
    }

    /// Whether the node is online, as the trail last said.
    #[must_use]
    pub fn presence(node: &str) -> String {
        format!("presence/{node}")
    }

    /// Where a node was reached.
    #[must_use]
    pub fn reach(node: &str) -> String {
        format!("reach/{node}")
    }

    /// How far a node's spool has arrived.
    #[must_use]
    pub fn spool(node: &str, spool: &str) -> String {
        format!("{}{spool}", spools_of(node))
    }

    /// Under it: a node's spools.
    #[must_use]
    pub fn spools_of(node: &str) -> String {
        format!("spool/{node}/")
    }

    /// Under it: one node's bans by id.
    #[must_use]
    pub fn bans_of(node: &str) -> String {
        format!("ban/node/{node}/")
    }

    /// A mark that the ban under this key ends then.
    #[must_use]
    pub fn ban_end(at: i64, ban: &str) -> String {
        format!("{BAN_ENDS}{:020}/{ban}", at.max(0))
    }

    /// Under it: one node's kicked sessions.
    #[must_use]
    pub fn kicks_of(node: &str) -> String {
        format!("{KICKS}{node}/")
    }

    /// A session that was kicked.
    #[must_use]
    pub fn kick(node: &str, session: &str) -> String {
        format!("{KICKS}{node}/{session}")
    }

    /// A mark that the kick under this key is forgotten then.
    #[must_use]
    pub fn kick_end(at: i64, kick: &str) -> String {
        format!("{KICK_ENDS}{:020}/{kick}", at.max(0))
    }

    /// A remembered request by the keyed hash of who and which key.
    #[must_use]
    pub fn idempotency(hash: &str) -> String {
        format!("idempotency/{hash}")
    }

    /// A mark that a remembered request is forgotten then.
    #[must_use]
    pub fn idempotency_end(at: i64, hash: &str) -> String {
        format!("{IDEMPOTENCY_ENDS}{:020}/{hash}", at.max(0))
    }
}

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
    pub actor: Actor,
    /// In which request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
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
}

/// How far a spool has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolRecord {
    /// The last seq in the trail.
    pub seq: u64,
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
