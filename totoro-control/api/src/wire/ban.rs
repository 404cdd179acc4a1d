//! Bans: sources that may not reach a node's pool or its frps.

use std::net::{IpAddr, Ipv6Addr};

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

/// The shortest prefixes, by IPv4 and IPv6: more would ban half the world by a typing error.
const SHORTEST: (u8, u8) = (8, 16);

/// An address or a prefix, as people write it: `192.0.2.7`, `2001:db8::/48`.
///
/// # Errors
/// It is neither: what to write.
pub fn parse(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse())
        .map_err(|_| format!("{text:?} is no address or prefix: write 192.0.2.7 or 2001:db8::/48"))
}

/// A prefix to ban, in its [`canonical`] form.
///
/// # Errors
/// Why not, for the end of a sentence about it: it has no such form, or is so wide that it must be an error.
pub fn bannable(net: IpNet) -> Result<IpNet, String> {
    let net = canonical(net)?;
    let shortest = match net {
        IpNet::V4(_) => SHORTEST.0,
        IpNet::V6(_) => SHORTEST.1,
    };
    if net.prefix_len() < shortest {
        return Err(format!("is too wide; write /{shortest} at least"));
    }
    Ok(net)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_as_they_are_kept() {
        let read = |text| parse(text).and_then(bannable).map(|net| net.to_string());
        for (text, kept) in [
            ("192.0.2.7", "192.0.2.7/32"),
            (" 192.0.2.7/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::1/48", "2001:db8::/48"),
            ("::ffff:203.0.113.9/120", "203.0.113.0/24"),
            ("::ffff:203.0.113.9/128", "203.0.113.9/32"),
            ("::ffff:203.0.113.9/104", "203.0.0.0/8"),
            ("::fffe:0:0/96", "::fffe:0:0/96"),
            ("::1/128", "::1/128"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(kept), "{text}");
        }
        for (text, why) in [
            ("", "is no address"),
            ("example.org", "is no address"),
            ("192.0.2.7/33", "is no address"),
            ("0.0.0.0/0", "write /8 at least"),
            ("::ffff:0:0/96", "write /8 at least"),
            ("::ffff:203.0.113.9/103", "write /8 at least"),
            ("2000::/15", "write /16 at least"),
            ("::ffff:0:0/95", "is all of IPv4"),
            ("::/16", "is all of IPv4"),
            ("::/0", "is all of IPv4"),
        ] {
            let said = read(text).expect_err(text);
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
