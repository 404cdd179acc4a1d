//! What the node remembers of tenants, sessions, tickets. Times are Unix milliseconds by the
//! control plane's clock unless said otherwise.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use totoro_api::decide::Voucher;
use totoro_api::ticket::{Grant, SKEW_S};

use crate::kernel::ControlSocket;

/// The tenant that all anonymous tenants are charged to together.
pub const ALL_PUBLIC: u32 = 1;
/// The first number of an ordinary tenant.
pub const FIRST_TENANT: u32 = 2;
/// Begins the id of an anonymous tenant; its address prefix follows.
pub const PUBLIC: &str = "public:";

/// A tenant that has logged in at least once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its number in the kernel: never reused.
    pub number: u32,
    /// From users over leases that are closed, IP bytes.
    #[serde(default)]
    pub bytes_in: u64,
    /// To users over leases that are closed, IP bytes.
    #[serde(default)]
    pub bytes_out: u64,
    /// When it last had a session.
    #[serde(default)]
    pub seen_ms: i64,
}

/// One frpc login under a ticket, and its resumptions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// What the audit calls it. (The run_id is a bearer secret in frp.)
    pub id: String,
    /// The tenant's id.
    pub tenant: String,
    /// What the newest ticket vouches for.
    pub voucher: Voucher,
    /// Changes with each Login, and comes back in every later request: tells a late request of a
    /// replaced connection from one of its successor.
    pub nonce: String,
    /// frpc's `user`.
    pub user: String,
    /// Where frpc comes from.
    pub client: SocketAddr,
    /// The node's end of frpc's connection.
    pub local: SocketAddr,
    /// That socket's cookie.
    pub cookie: u64,
    /// When it was opened.
    pub opened_ms: i64,
    /// From when its longest life counts: when a newer ticket was bound.
    pub begun_ms: i64,
    /// When frpc's connection ended; `None` while it lives.
    pub lost_ms: Option<i64>,
    /// frpc's version.
    pub frpc_version: String,
    /// From users over leases that are closed, IP bytes.
    pub bytes_in: u64,
    /// To users over leases that are closed, IP bytes.
    pub bytes_out: u64,
    /// TCP user connections so far.
    pub conns: u64,
}

impl Session {
    /// The invite, unless the session is anonymous.
    #[must_use]
    pub fn invite(&self) -> Option<String> {
        invite_of(&self.voucher.grant)
    }

    /// frpc's connection.
    #[must_use]
    pub const fn control(&self) -> ControlSocket {
        ControlSocket {
            cookie: self.cookie,
            client: self.client,
            local: self.local,
        }
    }

    /// Whether frpc's connection lives, as far as is known.
    #[must_use]
    pub const fn connected(&self) -> bool {
        self.lost_ms.is_none()
    }
}

/// The invite of a grant.
#[must_use]
pub fn invite_of(grant: &Grant) -> Option<String> {
    match grant {
        Grant::Invite(id) => Some(id.clone()),
        Grant::Public(_) => None,
    }
}

/// A ticket that was seen, by the hash of its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ticket {
    /// Its own id.
    pub jti: String,
    /// The session that it is bound to.
    pub run_id: String,
    /// Whose it is.
    pub tenant: String,
    /// What it vouches for.
    pub voucher: Voucher,
    /// Until when it opens sessions, Unix seconds.
    pub exp: i64,
    /// Where it was last used from.
    pub client: IpAddr,
    /// Its session was ended for good.
    pub ended: bool,
}

impl Ticket {
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
