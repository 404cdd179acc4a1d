//! The `frpc.toml` that a stock frpc (0.61 or newer) runs with: it fetches its tickets by itself.

use serde::Serialize;
use totoro_api::frpc::{Auth, Config, Proxy, Transport, host_port, token_url};
use totoro_api::limits::Effective;
use totoro_api::ports::{Pool, Protocol};

#[derive(Serialize)]
struct Example {
    proxies: [Proxy; 1],
}

/// What goes into a file.
pub(super) struct Client<'a> {
    /// The node's first address, `host:port`.
    pub(super) server_addr: &'a str,
    /// frpc's `user`: the invite's id, or `public-` and something random.
    pub(super) user: &'a str,
    /// The OAuth client secret: the code, or `public:NODE`.
    pub(super) secret: &'a str,
    /// The control plane's public URL.
    pub(super) public_url: &'a str,
    /// What holds for the tenant.
    pub(super) limits: &'a Effective,
    /// What the node lends.
    pub(super) pool: &'a Pool,
    /// Whether the node has a CA.
    pub(super) has_ca: bool,
    /// How often frpc pings, seconds: only where nothing else tells that it lives.
    pub(super) ping_s: Option<u64>,
}

impl Client<'_> {
    /// The file's text. Values are written by the TOML library; comments are ours alone.
    pub(super) fn toml(&self) -> Result<String, toml::ser::Error> {
        let (host, port) = host_port(self.server_addr).unwrap_or((self.server_addr, 7000));
        let url = token_url(self.public_url);
        let file = Config {
            server_addr: host,
            server_port: port,
            user: self.user,
            login_fail_exit: None,
            auth: Auth::new(self.secret, &url),
            transport: self.ping_s.map(|interval| Transport {
                heartbeat_interval: Some(interval),
                tls: None,
            }),
            log: None,
            web_server: None,
            proxies: &[],
        };
        let mut text = String::from(
            "# frpc (0.61 or newer) fetches its tickets by itself with the client secret below.\n\
             # Keep this file to yourself: chmod 600.\n",
        );
        text.push_str(&toml::to_string(&file)?);
        text.push_str(self.verification());
        text.push_str("\n# A tunnel, as an example; remotePort = 0 lets the node choose.\n");
        if let Some(example) = self.example() {
            for line in toml::to_string(&example)?.lines() {
                text.push_str("# ");
                text.push_str(line);
                text.push('\n');
            }
        }
        Ok(text)
    }

    /// How to make frpc check whom it talks to; without it a man in the middle reads the ticket.
    const fn verification(&self) -> &'static str {
        if self.has_ca {
            "\n# To verify the node: save `tls_ca` of the answer as totoro-ca.pem and uncomment.\n\
             # [transport.tls]\n\
             # trustedCaFile = \"totoro-ca.pem\"\n"
        } else {
            "\n# The node has published no CA yet, so frpc cannot verify it.\n"
        }
    }

    /// A proxy with the first allowed type and port.
    fn example(&self) -> Option<Example> {
        let first = |protocol: &Protocol| {
            let lent = self.pool.of(*protocol);
            let allowed = |port: &u16| {
                self.limits
                    .ports
                    .as_ref()
                    .is_none_or(|ports| ports.contains(*port))
            };
            Some((*protocol, lent.iter().find(allowed)?))
        };
        let (protocol, remote_port) = self.limits.types.iter().find_map(first)?;
        let (name, local_port) = match protocol {
            Protocol::Tcp => ("web", 8080),
            Protocol::Udp => ("game", 27015),
        };
        Some(Example {
            proxies: [Proxy {
                name: name.to_owned(),
                protocol,
                local_ip: "127.0.0.1".to_owned(),
                local_port,
                remote_port,
            }],
        })
    }
}

/// One command to paste: writes the file privately and starts frpc. The secret travels by the
/// shell's input, so it is in no process's arguments.
pub(super) fn command(toml: &str) -> String {
    format!(
        "(umask 077 && cat > frpc.toml) <<'TOTORO_FRPC' && frpc -c frpc.toml\n{toml}TOTORO_FRPC\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use totoro_api::limits::Limits;

    #[test]
    fn a_stock_frpc_can_read_it() {
        let limits = Limits {
            ports: "20005".parse().ok(),
            ..Limits::default()
        };
        let pool = Pool {
            tcp: "20000-20099".parse().unwrap(),
            udp: "20000".parse().unwrap(),
        };
        let client = Client {
            server_addr: "[2001:db8::1]:7000",
            user: "inv-1",
            secret: "tn1-\"#",
            public_url: "https://control.example.org",
            limits: &limits.over(&Limits::default()),
            pool: &pool,
            has_ca: true,
            ping_s: Some(30),
        };
        let text = client.toml().unwrap();
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["serverAddr"].as_str(), Some("2001:db8::1"));
        assert_eq!(read["serverPort"].as_integer(), Some(7000));
        assert_eq!(read["user"].as_str(), Some("inv-1"));
        assert_eq!(read["auth"]["method"].as_str(), Some("oidc"));
        let oidc = &read["auth"]["oidc"];
        assert_eq!(oidc["clientID"].as_str(), Some("totoro"));
        assert_eq!(oidc["clientSecret"].as_str(), Some("tn1-\"#"));
        let url = "https://control.example.org/api/v1/oauth/token";
        assert_eq!(oidc["tokenEndpointURL"].as_str(), Some(url));
        let ping = &read["transport"]["heartbeatInterval"];
        assert_eq!(ping.as_integer(), Some(30));
        assert!(!read.contains_key("proxies"), "the example is a comment");

        let uncommented: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .skip(2)
            .collect::<Vec<_>>()
            .join("\n");
        let example = &uncommented[uncommented.find("[[proxies]]").unwrap()..];
        let example: toml::Table = example.parse().unwrap();
        assert_eq!(
            example["proxies"][0]["remotePort"].as_integer(),
            Some(20005)
        );
        assert!(command(&text).ends_with("\nTOTORO_FRPC\n"));
    }
}
