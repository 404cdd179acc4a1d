//! What is an admin's alone: tokens and ticket keys.

use serde::{Deserialize, Serialize};

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenScope {
    /// Look at everything but tokens: nodes, invites, sessions, bans, the trail, ticket keys.
    Read,
    /// Nodes, their sessions and their bans.
    Nodes,
    /// Invites.
    Invites,
    /// Look at the trail.
    Audit,
    /// Everything, tokens, ticket keys and backups among them.
    All,
    /// One of a newer control plane's: it allows nothing here.
    #[serde(other)]
    Unknown,
}

impl TokenScope {
    /// All that can be given.
    pub const EACH: [TokenScope; 5] = [
        TokenScope::Read,
        TokenScope::Nodes,
        TokenScope::Invites,
        TokenScope::Audit,
        TokenScope::All,
    ];

    /// As people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            TokenScope::Read => "read",
            TokenScope::Nodes => "nodes",
            TokenScope::Invites => "invites",
            TokenScope::Audit => "audit",
            TokenScope::All => "all",
            TokenScope::Unknown => "unknown",
        }
    }
}

impl std::str::FromStr for TokenScope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::EACH.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| "a scope is read, nodes, invites, audit or all".to_owned())
    }
}

/// `POST /admin/tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Who or what has it: the actor in the trail. Letters, digits, `-`, `_`, at most 64.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Id))]
    pub name: String,
    /// What it may do, at least one.
    #[cfg_attr(feature = "openapi", schema(min_items = 1))]
    pub scopes: Vec<TokenScope>,
    /// RFC 3339; absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::Time>))]
    pub expires_at: Option<String>,
}

/// An admin's token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Token {
    /// Its id: no secret.
    pub id: String,
    /// Who or what has it.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<TokenScope>,
    /// RFC 3339; absent for the one that the installation came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// RFC 3339; absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// RFC 3339, within a minute; absent = never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
    /// The token itself: only in the answer that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// `GET /admin/tokens`: there are few, so it is one page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenPage {
    /// The tokens, in the order of their names.
    pub items: Vec<Token>,
}

/// A ticket key: its public side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TicketKeyEntry {
    /// Its id, in each ticket's footer.
    pub kid: String,
    /// RFC 3339: signs from then on.
    pub not_before: String,
    /// RFC 3339: signs nothing from then on.
    pub expires_at: String,
    /// Its age, seconds.
    pub age_s: u64,
    /// Nodes whose tickets it signs now: the newest key that they have acknowledged.
    pub signs_for: u64,
    /// Nodes that know it.
    pub acknowledged: u64,
    /// Nodes that have not said that they know it, by id: the first hundred.
    pub waiting: Vec<String>,
}

/// `GET /admin/ticket-keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TicketKeyPage {
    /// The keys that may sign or still verify, newest first.
    pub items: Vec<TicketKeyEntry>,
}
