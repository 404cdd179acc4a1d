//! frps's HTTP server-plugin protocol (frp 0.70.1, `pkg/plugin/server/types.go`): what frps asks,
//! and what it may be answered. Unknown fields are ignored: frps of other versions sends others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A request: `POST {path}?op=<Op>&version=0.1.0`.
#[derive(Clone, Debug, Deserialize)]
pub struct Request {
    /// The protocol's version, `0.1.0`.
    pub version: String,
    /// The operation's name.
    pub op: String,
    /// The operation's content, read once the operation is known.
    pub content: Value,
}

/// Content of `Login`. Numbers are read wide, so that what is out of range is refused by its name
/// instead of failing to parse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Login {
    /// frpc's version.
    pub version: String,
    /// The client's host name.
    pub hostname: String,
    /// The client's operating system.
    pub os: String,
    /// The client's architecture.
    pub arch: String,
    /// frpc's `user`, the prefix of its proxy names.
    pub user: String,
    /// The credential: with `auth.method = "oidc"` the access token, i.e. our ticket.
    pub privilege_key: String,
    /// frpc's clock, Unix seconds (0 with oidc).
    pub timestamp: i64,
    /// The session that frpc wants to resume; empty at first.
    pub run_id: String,
    /// frpc's `clientID`.
    pub client_id: String,
    /// `metadatas.*` of frpc's file.
    pub metas: Option<BTreeMap<String, String>>,
    /// Work connections to keep ready. Negative values crash an unprotected frps.
    pub pool_count: i64,
    /// Where the client comes from, `ip:port`.
    pub client_address: String,
}

/// Who asks, in every content but `Login`'s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct User {
    /// frpc's `user`.
    pub user: String,
    /// The metadata of the Login, as our answer left it.
    pub metas: Option<BTreeMap<String, String>>,
    /// The session.
    pub run_id: String,
}

/// Content of `NewProxy`, as far as a decision needs it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NewProxy {
    /// Who asks.
    pub user: User,
    /// `{user}.{name}`.
    pub proxy_name: String,
    /// `tcp`, `udp`, …
    pub proxy_type: String,
    /// The public port that is asked for; 0 = any.
    pub remote_port: i64,
    /// The load-balancing group.
    pub group: String,
    /// That group's key, whatever was sent for it.
    pub group_key: Value,
    /// Who holds frps's own bandwidth limit, whatever was sent for it.
    pub bandwidth_limit_mode: Value,
}

/// Content of `CloseProxy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CloseProxy {
    /// Who asks.
    pub user: User,
    /// `{user}.{name}`.
    pub proxy_name: String,
}

/// Content of `NewUserConn` (grade `callback` only).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NewUserConn {
    /// Whose proxy it is.
    pub user: User,
    /// `{user}.{name}`.
    pub proxy_name: String,
    /// `tcp`, …
    pub proxy_type: String,
    /// The user's address, `ip:port`.
    pub remote_addr: String,
}

/// What frps is answered, always with HTTP 200 (anything else is only "plugin failed" to frps).
///
/// Build it by the constructors: frps replaces the content by zeros unless `unchange` is true or
/// the whole content is sent, and takes a refusal without a reason for success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Answer {
    /// Refused?
    pub reject: bool,
    /// Why; never empty when refused.
    pub reject_reason: String,
    /// The content stands as it was sent.
    pub unchange: bool,
    /// The whole content, when it does not stand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Value>,
    /// The reason of a refusal, for who counts them; frps is not sent it.
    #[serde(skip)]
    pub reason: Option<crate::Reason>,
}

impl Answer {
    /// Allowed, as it was asked.
    #[must_use]
    pub fn allow() -> Self {
        Answer {
            reject: false,
            reject_reason: String::new(),
            unchange: true,
            content: None,
            reason: None,
        }
    }

    /// Allowed, with this whole content in place of the one that was sent. A content that is no
    /// object would crash frps, so it is never sent: it becomes a refusal.
    #[must_use]
    pub fn allow_with(content: Value) -> Self {
        if !content.is_object() {
            return Answer::refuse(&crate::Refusal::new(crate::Reason::Internal));
        }
        Answer {
            reject: false,
            reject_reason: String::new(),
            unchange: false,
            content: Some(content),
            reason: None,
        }
    }

    /// Refused, with the line that frpc prints.
    #[must_use]
    pub fn refuse(refusal: &crate::Refusal) -> Self {
        Answer {
            reject: true,
            reject_reason: refusal.to_string(),
            unchange: true,
            content: None,
            reason: Some(refusal.reason),
        }
    }
}
