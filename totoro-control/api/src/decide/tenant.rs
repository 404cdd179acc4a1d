//! Whose a login is, and the tickets that were seen.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Brought, Voucher};
use crate::ticket::{Grant, SKEW_S};

/// Begins the id of an anonymous tenant; its address prefix follows.
pub const PUBLIC: &str = "public:";

/// The invite of a grant.
#[must_use]
pub fn invite_of(grant: &Grant) -> Option<&str> {
    match grant {
        Grant::Invite(id) => Some(id),
        Grant::Public(_) => None,
    }
}

/// A ticket that was seen, by the hash of its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeenTicket {
    /// Its own id.
    pub jti: String,
    /// The session that it is bound to.
    pub run_id: String,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What it vouches for; its session has the same.
    pub voucher: Arc<Voucher>,
    /// Until when it opens sessions, Unix seconds.
    pub exp: i64,
    /// Where it was last used from.
    pub client: IpAddr,
    /// Its session was ended for good.
    pub ended: bool,
}

impl SeenTicket {
    /// What it is to a login from `from`, at `now` (Unix seconds), while its session's connection
    /// lives or not.
    #[must_use]
    pub fn brought(&self, connected: bool, from: IpAddr, now: i64) -> Brought {
        Brought::Seen {
            expired: self.past(now),
            ended: self.ended,
            connected,
            same_address: self.client == from,
        }
    }

    /// Whether it opens nothing any more, at `now` (Unix seconds).
    #[must_use]
    pub const fn past(&self, now: i64) -> bool {
        self.exp.saturating_add(SKEW_S) < now
    }
}

/// The tenant of a grant, for a login from `client`: an anonymous one is its IPv4 address or
/// IPv6 /64.
#[must_use]
pub fn tenant_of(grant: &Grant, client: IpAddr) -> String {
    match grant {
        Grant::Invite(id) => id.clone(),
        Grant::Public(_) => format!("{PUBLIC}{}", source(client)),
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64.
#[must_use]
pub fn source(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => prefix6(ip, 64),
    }
}

/// The IPv6 /48 of an anonymous tenant, if it is one.
#[must_use]
pub fn site(tenant: &str) -> Option<String> {
    let (ip, _) = tenant.strip_prefix(PUBLIC)?.split_once('/')?;
    Some(prefix6(ip.parse().ok()?, 48))
}

fn prefix6(ip: std::net::Ipv6Addr, bits: u32) -> String {
    let mask = u128::MAX << (128 - bits);
    format!("{}/{bits}", std::net::Ipv6Addr::from(u128::from(ip) & mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_tenants_are_prefixes() {
        let tenant = |ip: &str| tenant_of(&Grant::Public(true), ip.parse().unwrap());
        assert_eq!(tenant("192.0.2.7"), "public:192.0.2.7");
        assert_eq!(tenant("::ffff:192.0.2.7"), "public:192.0.2.7");
        assert_eq!(tenant("2001:db8:1:2:3::4"), "public:2001:db8:1:2::/64");
        assert_eq!(
            site(&tenant("2001:db8:1:2:3::4")).as_deref(),
            Some("2001:db8:1::/48")
        );
        assert_eq!(site("public:192.0.2.7"), None);
        assert_eq!(site("inv_a"), None);
    }
}
