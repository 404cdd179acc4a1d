//! Sessions, as the lender and the admins see them.

use serde::{Deserialize, Serialize};

/// One frpc session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionEntry {
    /// Its id.
    pub id: String,
    /// The node it is on.
    pub node: String,
    /// Whose it is: the invite's id, or `public:<prefix>`.
    pub tenant: String,
    /// Where frpc comes from.
    pub client: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// frpc's version.
    pub frpc_version: String,
    /// It is to end: the node has not said yet that it has.
    pub kicked: bool,
    /// How old this is, seconds.
    pub age_s: u64,
}

/// A page of sessions, in the order of their nodes and ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SessionPage {
    /// The sessions, as the nodes last reported them.
    pub items: Vec<SessionEntry>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}
