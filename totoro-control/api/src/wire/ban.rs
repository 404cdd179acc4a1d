//! Bans: sources that may not reach a node's pool or its frps.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// `POST /nodes/bans` (and `/admin/bans`, where no node means all nodes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewBan {
    /// The node, where the caller may choose it (admin); absent = all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// An address or a prefix: `192.0.2.7`, `2001:db8::/48`.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Prefix))]
    pub prefix: String,
    /// RFC 3339; absent = until lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::openapi::TimeOrNever>))]
    pub until: Option<String>,
    /// Why, for the lender.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Note200))]
    pub note: String,
}

/// A ban as the lender sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BanEntry {
    /// Its id.
    pub id: String,
    /// The node; absent = all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The prefix, host bits cleared.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub prefix: ipnet::IpNet,
    /// RFC 3339; absent = until lifted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why, for the lender.
    pub note: String,
    /// RFC 3339.
    pub created_at: String,
}

/// A page of bans.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BanPage {
    /// The bans, in the order of their ids.
    pub items: Vec<BanEntry>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The first of the v4-mapped addresses, `::ffff:0:0/96`.
const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);

/// A prefix as addresses are looked up, host bits cleared: a v4-mapped one is the IPv4 one.
///
/// # Errors
/// Why not, where it holds all mapped addresses and more: it would ban nobody by IPv4, and a node's programs would take
/// it for all of IPv4.
pub fn canonical(net: IpNet) -> Result<IpNet, &'static str> {
    let net = net.trunc();
    let IpNet::V6(wide) = net else {
        return Ok(net);
    };
    let length = wide.prefix_len().checked_sub(96);
    match (wide.addr().to_ipv4_mapped(), length) {
        (Some(address), Some(length)) => Ok(Ipv4Net::new_assert(address, length).into()),
        (_, None) if wide.contains(&MAPPED) => {
            Err("holds ::ffff:0:0/96, which is all of IPv4; write the IPv4 prefix")
        }
        _ => Ok(net),
    }
}
