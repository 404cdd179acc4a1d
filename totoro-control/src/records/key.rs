//! Keys of the store. Ids reach them only after [`crate::app::checked_id`], so no id can name
//! another record's key.

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
/// Marks of invites that may be forgotten.
pub const INVITES_OVER: &str = "invite_over/";
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
    [NODES, id].concat()
}

/// A node's id by its name.
#[must_use]
pub fn node_name(name: &str) -> String {
    ["node_name/", name].concat()
}

/// A node's id by the keyed hash of its key.
#[must_use]
pub fn node_key(hash: &str) -> String {
    ["node_key/", hash].concat()
}

/// A mark that this node's old key ends then.
#[must_use]
pub fn key_end(at: i64, node: &str) -> String {
    format!("{KEY_ENDS}{:020}/{node}", at.max(0))
}

/// An enrolment token by its keyed hash.
#[must_use]
pub fn enrolment(hash: &str) -> String {
    ["enrolment/", hash].concat()
}

/// An admin token by its keyed hash.
#[must_use]
pub fn admin_token(hash: &str) -> String {
    [ADMIN_TOKENS, hash].concat()
}

/// When an admin token was last used, Unix seconds.
#[must_use]
pub fn token_used(hash: &str) -> String {
    ["admin_token_used/", hash].concat()
}

/// A mark that what this node left is to be removed.
#[must_use]
pub fn gone(node: &str) -> String {
    [GONE, node].concat()
}

/// An invite.
#[must_use]
pub fn invite(id: &str) -> String {
    [INVITES, id].concat()
}

/// Under it: a node's invites by id.
#[must_use]
pub fn invites_of(node: &str) -> String {
    ["node_invite/", node, "/"].concat()
}

/// An invite's id by the keyed hash of its code.
#[must_use]
pub fn code(hash: &str) -> String {
    ["code/", hash].concat()
}

/// A mark that an invite ends then.
#[must_use]
pub fn expiry(at: i64, invite: &str) -> String {
    format!("{EXPIRIES}{:020}/{invite}", at.max(0))
}

/// A mark that an invite that is over may be forgotten then.
#[must_use]
pub fn invite_over(at: i64, invite: &str) -> String {
    format!("{INVITES_OVER}{:020}/{invite}", at.max(0))
}

/// Under it: everything about one node's policy; what its watch follows.
#[must_use]
pub fn policy(node: &str) -> String {
    ["policy/", node, "/"].concat()
}

/// The revision of this key is the node's policy revision.
#[must_use]
pub fn policy_head(node: &str) -> String {
    ["policy/", node, "/head"].concat()
}

/// Under it, appended: what changed.
#[must_use]
pub fn policy_log(node: &str) -> String {
    ["policy/", node, "/log/"].concat()
}

/// What the node has applied.
#[must_use]
pub fn applied(node: &str) -> String {
    ["applied/", node].concat()
}

/// Whether the node is online, as the trail last said.
#[must_use]
pub fn presence(node: &str) -> String {
    ["presence/", node].concat()
}

/// Where a node was reached.
#[must_use]
pub fn reach(node: &str) -> String {
    ["reach/", node].concat()
}

/// How far a node's spool has arrived.
#[must_use]
pub fn spool(node: &str, spool: &str) -> String {
    format!("{}{spool}", spools_of(node))
}

/// Under it: a node's spools.
#[must_use]
pub fn spools_of(node: &str) -> String {
    ["spool/", node, "/"].concat()
}

/// Under it: one node's bans by id.
#[must_use]
pub fn bans_of(node: &str) -> String {
    ["ban/node/", node, "/"].concat()
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
    ["idempotency/", hash].concat()
}

/// A mark that a remembered request is forgotten then.
#[must_use]
pub fn idempotency_end(at: i64, hash: &str) -> String {
    format!("{IDEMPOTENCY_ENDS}{:020}/{hash}", at.max(0))
}
