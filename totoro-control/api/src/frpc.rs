//! The part of frpc's configuration that Totoro writes. One shape for the control plane, whose file a
//! person pastes, and for the client, which runs frpc itself. Every name is frp's own (0.61 to 0.70).

use serde::Serialize;

use crate::ports::Protocol;

/// The OAuth client id that every frpc of ours has; the secret tells them apart.
pub const CLIENT_ID: &str = "totoro";

/// A configuration file.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config<'a> {
    /// frps's host.
    pub server_addr: &'a str,
    /// frps's port.
    pub server_port: u16,
    /// Begins the proxies' names: the invite's id, or `public-` and something random.
    pub user: &'a str,
    /// Whether a first login that fails ends frpc (its default is that it does).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login_fail_exit: Option<bool>,
    /// How it logs in.
    pub auth: Auth<'a>,
    /// Pings and TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport<'a>>,
    /// Its log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Log>,
    /// Its admin API.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_server: Option<WebServer<'a>>,
    /// What it exposes.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub proxies: &'a [Proxy],
}

/// OAuth2 client credentials: frpc fetches its tickets by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Auth<'a> {
    method: &'static str,
    oidc: Oidc<'a>,
}

#[derive(Clone, Debug, Serialize)]
struct Oidc<'a> {
    #[serde(rename = "clientID")]
    client_id: &'static str,
    #[serde(rename = "clientSecret")]
    client_secret: &'a str,
    #[serde(rename = "tokenEndpointURL")]
    token_endpoint_url: &'a str,
}

impl<'a> Auth<'a> {
    /// With this secret (a code, or `public:NODE`), from this endpoint. No scopes: with them, a
    /// control plane that is away would end live sessions.
    #[must_use]
    pub const fn new(client_secret: &'a str, token_endpoint_url: &'a str) -> Self {
        Auth {
            method: "oidc",
            oidc: Oidc {
                client_id: CLIENT_ID,
                client_secret,
                token_endpoint_url,
            },
        }
    }
}

/// The token endpoint of a control plane.
#[must_use]
pub fn token_url(control: &str) -> String {
    format!("{}/api/v1/oauth/token", control.trim_end_matches('/'))
}

/// `[transport]`
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Transport<'a> {
    /// How often it pings, seconds: only where nothing else tells that it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_interval: Option<u64>,
    /// How it knows frps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls<'a>>,
}

/// `[transport.tls]`
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls<'a> {
    /// frps's certificate must be signed by this one (a PEM file).
    pub trusted_ca_file: &'a str,
}

/// `[log]`
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// `info`, …
    pub level: &'static str,
    /// No colours: it is read by a program.
    pub disable_print_color: bool,
}

/// `[webServer]`
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WebServer<'a> {
    /// Where it listens.
    pub addr: &'a str,
    /// Its port; 0 = none.
    pub port: u16,
    /// Basic's user.
    pub user: &'a str,
    /// Basic's password.
    pub password: &'a str,
}

/// One of `[[proxies]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxy {
    /// Its name, without the user's.
    pub name: String,
    /// `tcp` or `udp`.
    #[serde(rename = "type")]
    pub protocol: Protocol,
    /// The service's host.
    #[serde(rename = "localIP")]
    pub local_ip: String,
    /// The service's port.
    pub local_port: u16,
    /// The public port; 0 = the node chooses.
    pub remote_port: u16,
}

/// `host:port` or `[v6]:port`; `None` for what is neither.
#[must_use]
pub fn host_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|&port| port != 0)?;
    if let Some(v6) = host.strip_prefix('[') {
        let v6 = v6.strip_suffix(']')?;
        v6.parse::<std::net::Ipv6Addr>().ok()?;
        return Some((v6, port));
    }
    let name = !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    name.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(
            host_port("n1.example.org:7000"),
            Some(("n1.example.org", 7000))
        );
        assert_eq!(host_port("[2001:db8::1]:7000"), Some(("2001:db8::1", 7000)));
        for bad in [
            "",
            "host",
            "host:0",
            "host:70000",
            "2001:db8::1:7000",
            "[x]:1",
            "a b:1",
            "\":1",
        ] {
            assert_eq!(host_port(bad), None, "{bad:?}");
        }
    }
}
