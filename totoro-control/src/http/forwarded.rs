//! Whose request it is behind a proxy. Only proxies that the settings name are believed: anyone
//! can write the header.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use warp::http::HeaderMap;

/// Whether an address is one of the proxies that we believe.
pub(super) fn is_trusted(address: IpAddr, proxies: &[IpNet]) -> bool {
    let address = address.to_canonical();
    proxies.iter().any(|proxy| proxy.contains(&address))
}

/// The client's address, v4-mapped ones as IPv4: the right-most hop of `X-Forwarded-For` that is
/// no trusted proxy. Each proxy appends whom it spoke to, so what stands further left is hearsay: it
/// stands on the same line, in whatever bytes its writer liked, and spoils nothing to its right.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(client, proxies) {
        return client;
    }
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    let mut hops = lines.flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b','));
    while is_trusted(client, proxies)
        && let Some(hop) = hops.next().and_then(read)
    {
        client = hop;
    }
    client
}

/// A hop: an address, with a port where the proxy adds one.
fn read(hop: &[u8]) -> Option<IpAddr> {
    let hop = str::from_utf8(hop.trim_ascii()).ok()?;
    let with_port = || hop.parse().ok().map(|at: SocketAddr| at.ip());
    let bare = hop.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse().ok().or_else(with_port)?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use warp::http::HeaderValue;

    #[test]
    fn only_what_a_trusted_proxy_wrote_counts() {
        let proxies = ["127.0.0.1/32", "10.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap());
        let ask_bytes = |peer: &str, lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", HeaderValue::from_bytes(line).unwrap());
            }
            client(peer.parse().unwrap(), &headers, &proxies).to_string()
        };
        let ask = |peer: &str, lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
            ask_bytes(peer, &lines)
        };
        assert_eq!(
            ask("192.0.2.1", &["198.51.100.1"]),
            "192.0.2.1",
            "a client's lie"
        );
        assert_eq!(ask("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(ask("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            ask("::ffff:127.0.0.1", &["6.6.6.6, 198.51.100.1"]),
            "198.51.100.1"
        );
        let chain = ["6.6.6.6", "198.51.100.1, 10.0.0.2"];
        assert_eq!(ask("127.0.0.1", &chain), "198.51.100.1", "two proxies");
        assert_eq!(ask("127.0.0.1", &["198.51.100.1:4444"]), "198.51.100.1");
        assert_eq!(ask("::1", &["[2001:db8::1]:44"]), "2001:db8::1");
        assert_eq!(ask("::1", &["2001:db8::1"]), "2001:db8::1");
        assert_eq!(ask("127.0.0.1", &["198.51.100.1, nonsense"]), "127.0.0.1");
        assert_eq!(
            ask("127.0.0.1", &["10.1.1.1"]),
            "10.1.1.1",
            "nothing but proxies"
        );
        let hidden: [&[u8]; 3] = [
            b"\xe9, 198.51.100.1",
            b"\xff\xfe,\t198.51.100.1 , 10.0.0.2",
            "界, 198.51.100.1".as_bytes(),
        ];
        for line in hidden {
            assert_eq!(ask_bytes("127.0.0.1", &[line]), "198.51.100.1", "{line:?}");
        }
        assert_eq!(
            ask_bytes("127.0.0.1", &[b"198.51.100.1, \xe9"]),
            "127.0.0.1"
        );
    }
}
