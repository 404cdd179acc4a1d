//! Who may ask. A page of somebody else's that is open in the same browser may not, by whatever name it
//! reaches us, and neither may another user of this machine.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, Method, header};
use subtle::ConstantTimeEq as _;

/// The cookie of who has logged in from elsewhere.
pub(super) const COOKIE: &str = "totoro";
/// Where programs say the token, if not as a bearer.
pub(super) const HEADER: &str = "x-totoro-token";

/// What a request is held to.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// Where we listen.
    pub(super) at: SocketAddr,
    /// Names beside addresses and `localhost` that we are asked by.
    pub(super) names: Vec<String>,
    /// What changes need; and whoever is not this user on this machine, for all.
    token: String,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It asks for another host: somebody's name was pointed at us.
    Host,
    /// It comes from another page.
    Origin,
    /// It comes from another user or another machine, without the token.
    Stranger,
}

impl Guard {
    /// With a token of its own.
    pub(super) fn new(at: SocketAddr, names: Vec<String>) -> Self {
        let mut bytes = [0; 24];
        // Without chance there is no token that fits.
        let token = getrandom::fill(&mut bytes).map(|()| hex::encode(bytes));
        Guard {
            at,
            names,
            token: token.unwrap_or_default(),
        }
    }

    /// The token, for pages and for the file that this user's programs read.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Whether this is it. Compared in constant time: others may try.
    pub(super) fn is_token(&self, text: &str) -> bool {
        !self.token.is_empty() && bool::from(self.token.as_bytes().ct_eq(text.as_bytes()))
    }

    /// Whether a request has the token in its head: only a program or our own script puts it there.
    pub(super) fn has_token(&self, headers: &HeaderMap) -> bool {
        let bearer = text(headers, "authorization").and_then(|it| it.strip_prefix("Bearer "));
        [text(headers, HEADER), bearer]
            .into_iter()
            .flatten()
            .any(|text| self.is_token(text))
    }

    /// Whether a request is answered at all.
    pub(super) fn check(
        &self,
        method: &Method,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Result<(), Refused> {
        let host = text(headers, "host").filter(|host| self.is_ours(host));
        let host = host.ok_or(Refused::Host)?;
        // A browser says whose page asks wherever that could matter.
        let ours = |origin: &str| origin.strip_prefix("http://") == Some(host);
        if text(headers, "origin").is_some_and(|origin| !ours(origin)) {
            return Err(Refused::Origin);
        }
        let site = text(headers, "sec-fetch-site");
        let reads = matches!(*method, Method::GET | Method::HEAD);
        // A link from elsewhere may open the page; nothing else may come from there.
        let follows = reads
            && headers
                .get("sec-fetch-dest")
                .is_some_and(|to| to == "document");
        if site.is_some_and(|site| !["same-origin", "none"].contains(&site)) && !follows {
            return Err(Refused::Origin);
        }
        if self.has_token(headers) || self.has_cookie(headers) || same_user(peer, self.at) {
            return Ok(());
        }
        Err(Refused::Stranger)
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(header::COOKIE).into_iter();
        let cookies = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(';'));
        let ours = |cookie: &str| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == COOKIE && self.is_token(value)).then_some(())
        };
        cookies.into_iter().any(|cookie| ours(cookie).is_some())
    }

    /// Whether a `Host` is us. An address can't be pointed at us by anyone; a name can.
    fn is_ours(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
            _ => (host, Some(80)),
        };
        let address = name.trim_start_matches('[').trim_end_matches(']');
        let known = name.eq_ignore_ascii_case("localhost")
            || address.parse::<IpAddr>().is_ok()
            || self
                .names
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name));
        known && port == Some(self.at.port())
    }
}

/// A header's text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether who is connected to us is this user (or root) on this machine: the kernel tells whose the
/// other end is.
fn same_user(peer: SocketAddr, at: SocketAddr) -> bool {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (peer, port) = (canonical(peer), at.port());
    if !peer.ip().is_loopback() {
        return false;
    }
    let table = match peer {
        SocketAddr::V4(_) => procfs::net::tcp(),
        SocketAddr::V6(_) => procfs::net::tcp6(),
    };
    let us = nix::unistd::geteuid().as_raw();
    let theirs = |entry: &procfs::net::TcpNetEntry| {
        canonical(entry.local_address) == peer
            && entry.remote_address.port() == port
            && (entry.uid == us || entry.uid == 0)
    };
    table.is_ok_and(|table| table.iter().any(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: &str = "192.0.2.1:5";

    fn check(method: Method, headers: &[(&str, &str)]) -> Result<(), Refused> {
        let at = "127.0.0.1:7400".parse().unwrap();
        let guard = Guard::new(at, vec!["box.lan".to_owned()]);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let value = value.replace("TOKEN", guard.token());
            let name: header::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        guard.check(&method, &map, STRANGER.parse().unwrap())
    }

    #[test]
    fn a_name_that_is_not_ours_is_refused() {
        for (host, ours) in [
            ("127.0.0.1:7400", true),
            ("[::1]:7400", true),
            ("localhost:7400", true),
            ("BOX.lan:7400", true),
            ("192.0.2.7:7400", true),
            ("evil.example:7400", false),
            ("127.0.0.1.evil.example:7400", false),
            ("localhost.evil.example:7400", false),
            ("127.0.0.1:7401", false),
            ("127.0.0.1", false),
            ("localhost:", false),
            ("", false),
        ] {
            let answer = check(Method::GET, &[("host", host), ("x-totoro-token", "TOKEN")]);
            assert_eq!(answer, ours.then_some(()).ok_or(Refused::Host), "{host}");
        }
        assert_eq!(
            check(Method::GET, &[("x-totoro-token", "TOKEN")]),
            Err(Refused::Host)
        );
    }

    #[test]
    fn another_page_is_refused_even_with_the_cookie() {
        let ours = ("host", "localhost:7400");
        let cookie = ("cookie", "a=b; totoro=TOKEN");
        for (method, headers, refused) in [
            (
                Method::POST,
                vec![("origin", "http://localhost:7400")],
                None,
            ),
            (
                Method::POST,
                vec![("origin", "http://127.0.0.1:7400")],
                Some(Refused::Origin),
            ),
            (
                Method::POST,
                vec![("origin", "https://evil.example")],
                Some(Refused::Origin),
            ),
            (
                Method::POST,
                vec![("origin", "null")],
                Some(Refused::Origin),
            ),
            (
                Method::POST,
                vec![
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-dest", "document"),
                ],
                Some(Refused::Origin),
            ),
            (
                Method::GET,
                vec![("sec-fetch-site", "same-site")],
                Some(Refused::Origin),
            ),
            (
                Method::GET,
                vec![
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-dest", "document"),
                ],
                None,
            ),
            (
                Method::GET,
                vec![
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-dest", "iframe"),
                ],
                Some(Refused::Origin),
            ),
            (Method::GET, vec![("sec-fetch-site", "none")], None),
        ] {
            let all: Vec<_> = headers.iter().copied().chain([ours, cookie]).collect();
            assert_eq!(check(method, &all).err(), refused, "{headers:?}");
        }
    }

    #[test]
    fn a_stranger_needs_the_token() {
        let ours = ("host", "127.0.0.1:7400");
        assert_eq!(check(Method::GET, &[ours]), Err(Refused::Stranger));
        for wrong in ["totoro=", "totoro=x", "other=TOKEN", "TOKEN"] {
            let answer = check(Method::GET, &[ours, ("cookie", wrong)]);
            assert_eq!(answer, Err(Refused::Stranger), "{wrong}");
        }
        assert_eq!(
            check(Method::GET, &[ours, ("authorization", "Bearer TOKEN")]),
            Ok(())
        );
        assert_eq!(
            check(Method::GET, &[ours, ("cookie", "totoro=TOKEN")]),
            Ok(())
        );
    }

    #[test]
    fn the_kernel_tells_whose_the_other_end_is() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(at).unwrap();
        let peer = client.local_addr().unwrap();
        assert!(same_user(peer, at), "it is ours");
        let other = SocketAddr::new(peer.ip(), peer.port() ^ 1);
        assert!(!same_user(other, at));
        assert!(!same_user(STRANGER.parse().unwrap(), at));
    }
}
