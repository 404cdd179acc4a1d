//! Tickets: what a holder of an invite (or an anonymous visitor of a public node) shows at login.
//!
//! PASETO v4.public (Ed25519); `kid` in the footer; the implicit assertion
//! `totoro-ticket-v1|<node id>` binds a ticket to its node without sending it.

mod key;
mod keys;
mod paseto;
mod verify;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::limits::Limits;

pub use key::{KeyError, SigningKey};
pub use keys::Keys;
pub use paseto::{HEADER, Unverified, Verified, hash, sign, verify};
pub use verify::{AT_ONCE, Genuine, verify_all};

/// The longest ticket that is looked at, bytes. frp's message limit is about 10 KiB.
pub const MAX_LEN: usize = 4096;

/// How far clocks may be apart, seconds.
pub const SKEW_S: i64 = 60;

/// Where a ticket stands in its node's history of desired states.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Revision {
    /// The store's incarnation: new at each restore.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// The node's policy revision within the incarnation.
    pub rev: u64,
}

/// `GEN-REV`: the id of an event that brings a node there.
impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.generation, self.rev)
    }
}

/// Text that is no revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not GEN-REV")]
pub struct BadRevision;

impl FromStr for Revision {
    type Err = BadRevision;

    fn from_str(text: &str) -> Result<Self, BadRevision> {
        let (generation, rev) = text.split_once('-').ok_or(BadRevision)?;
        let number = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse().map_err(|_| BadRevision),
            false => Err(BadRevision),
        };
        Ok(Revision {
            generation: number(generation)?,
            rev: number(rev)?,
        })
    }
}

/// Whom a ticket admits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// The holder of this invite (its id).
    Invite(String),
    /// Anyone, under the node's public limits.
    Public(bool),
}

/// What a ticket says. Times are Unix seconds by the control plane's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The ticket's own id: 128 random bits, hex.
    pub jti: String,
    /// The node it is for.
    pub node: String,
    /// `invite = id` or `public = true`.
    #[serde(flatten)]
    pub grant: Grant,
    /// Who asked for it: the client's address prefix, for rate limits only.
    pub subject: String,
    /// The invite's epoch at issue.
    pub epoch: u32,
    /// The invite's limits at issue.
    pub limits: Limits,
    /// The node's (gen, rev) at issue.
    #[serde(flatten)]
    pub revision: Revision,
    /// Issued at.
    pub iat: i64,
    /// Valid until.
    pub exp: i64,
    /// How long a session may live that only this ticket vouches for.
    pub session_until: i64,
}

/// A Unix time as the wire shows it (RFC 3339, UTC).
#[must_use]
pub fn rfc3339(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix)
        .ok()
        .and_then(|at| {
            at.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_default()
}

/// What [`rfc3339`] writes, and any other text of that kind, as Unix time. Beyond the years 0 to 9999
/// in UTC, where an offset may lead, there is no text for one: it would be shown as no time at all.
#[must_use]
pub fn unix(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
        .ok()
        .map(OffsetDateTime::unix_timestamp)
        .filter(|at| !rfc3339(*at).is_empty())
}

#[cfg(test)]
mod tests {
    use super::{rfc3339, unix};

    #[test]
    fn a_time_that_can_not_be_shown_is_none() {
        for (text, at) in [
            ("9999-12-31T23:59:59Z", Some(253_402_300_799)),
            ("9999-12-31T23:59:59-00:01", None),
            ("0000-01-01T00:00:00Z", Some(-62_167_219_200)),
            ("0000-01-01T00:00:00+00:01", None),
            ("1970-01-01T00:01:00.9Z", Some(60)),
            ("1970-01-01", None),
        ] {
            assert_eq!(unix(text), at, "{text}");
            assert_eq!(at.and_then(|at| unix(&rfc3339(at))), at, "{text}");
        }
    }
}
