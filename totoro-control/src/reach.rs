//! Whether a node's address answers: one TCP connect, before visitors are sent there.
//!
//! What is to be connected to was written by somebody, so places that only this machine or its
//! hoster's services are at are left alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// How long a connect may take, with the name's resolution.
const PATIENCE: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Where clouds serve their machines' secrets, beyond the link-local addresses.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// When a public node is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listing {
    /// Connect once to each address of a public node before it is listed with it.
    pub probe: bool,
    /// To loopback, link-local and metadata addresses too. Only for labs.
    pub special_addresses: bool,
}

impl Default for Listing {
    fn default() -> Self {
        Listing {
            probe: true,
            special_addresses: false,
        }
    }
}

/// Connects once.
///
/// # Errors
/// In a line: why it is not reached.
pub async fn probe(host: &str, port: u16, listing: Listing) -> Result<(), String> {
    let attempt = async {
        let found = lookup_host((host, port)).await;
        let found: Vec<SocketAddr> = found
            .map_err(|error| format!("its name cannot be resolved: {error}"))?
            .take(MAX_ADDRESSES)
            .collect();
        // All of them: a name that leads here and there is none to trust.
        for at in &found {
            if !listing.special_addresses
                && let Some(what) = special(at.ip())
            {
                return Err(format!("{} is {what}: not connected to", at.ip()));
            }
        }
        let mut last = "its name has no address".to_owned();
        for at in found {
            match TcpStream::connect(at).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    };
    let in_time = timeout(PATIENCE, attempt).await;
    in_time.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

/// What an address is, where nobody else than this machine or its hoster is at it.
fn special(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    if METADATA.contains(&ip) {
        return Some("a cloud's metadata service");
    }
    let (loopback, link_local) = match ip {
        IpAddr::V4(v4) => (v4.is_loopback() || v4.octets()[0] == 0, v4.is_link_local()),
        IpAddr::V6(v6) => (v6.is_loopback(), v6.is_unicast_link_local()),
    };
    let nowhere = ip.is_unspecified() || ip.is_multicast();
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    match (loopback, link_local) {
        (true, _) => Some("this machine itself"),
        (_, true) => Some("a link-local address"),
        _ if nowhere || broadcast => Some("no single machine's address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nobody_elses_is_left_alone() {
        for (ip, left_alone) in [
            ("127.0.0.1", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("::", true),
            ("::ffff:127.0.0.1", true),
            ("169.254.169.254", true),
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("100.100.100.200", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            ("10.77.1.1", false),
            ("192.168.1.1", false),
            ("fd00::1", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(special(ip.parse().unwrap()).is_some(), left_alone, "{ip}");
        }
    }

    #[tokio::test]
    async fn an_address_answers_or_says_why_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let lab = Listing {
            special_addresses: true,
            ..Listing::default()
        };
        assert_eq!(probe("127.0.0.1", port, lab).await, Ok(()));
        let error = probe("127.0.0.1", port, Listing::default()).await;
        assert!(error.unwrap_err().contains("this machine itself"));
        drop(listener);
        assert!(probe("127.0.0.1", port, lab).await.is_err());
    }
}
