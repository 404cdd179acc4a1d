//! frpc's file, from what was checked: nothing that the control plane wrote goes into it as text.

use totoro_api::frpc::{Auth, Config, Log, Proxy, Tls, Transport, WebServer, host_port, token_url};
use totoro_api::wire::heartbeat::Grade;

use crate::access::Access;
use crate::frpc::admin::Admin;

/// How often frpc pings where frps has no daemon of ours beside it, seconds (docs/callback.md).
const CALLBACK_PING_S: u64 = 30;

/// What goes into a file.
#[derive(Debug)]
pub struct File<'a> {
    /// The way in.
    pub access: &'a Access,
    /// Which of the node's addresses.
    pub server_addr: &'a str,
    /// The control plane's address.
    pub control: &'a str,
    /// What is exposed.
    pub proxies: &'a [Proxy],
    /// Its admin API.
    pub admin: &'a Admin,
    /// The file with the node's CA, where it has one.
    pub ca_file: Option<&'a str>,
}

impl File<'_> {
    /// The file's text; a secret.
    ///
    /// # Errors
    /// TOML can't hold it.
    pub fn toml(&self) -> Result<String, toml::ser::Error> {
        let (host, port) = host_port(self.server_addr).unwrap_or((self.server_addr, 7000));
        let url = token_url(self.control);
        let ping = (self.access.grade == Grade::Callback).then_some(CALLBACK_PING_S);
        let tls = self.ca_file.map(|file| Tls {
            trusted_ca_file: file,
        });
        let transport = (ping.is_some() || tls.is_some()).then_some(Transport {
            heartbeat_interval: ping,
            tls,
        });
        toml::to_string(&Config {
            server_addr: host,
            server_port: port,
            user: &self.access.user,
            // We see why it fails, and decide ourselves what ends it.
            login_fail_exit: Some(false),
            auth: Auth::new(self.access.secret.reveal(), &url),
            transport,
            log: Some(Log {
                level: "info",
                disable_print_color: true,
            }),
            web_server: Some(WebServer {
                addr: "127.0.0.1",
                port: self.admin.port,
                user: &self.admin.user,
                password: self.admin.password.reveal(),
            }),
            proxies: self.proxies,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Secret;
    use crate::lang::Lang;
    use crate::target::{Wanted, proxies};
    use totoro_api::ports::Protocol;

    #[test]
    fn a_stock_frpc_can_read_it() {
        let access = Access {
            secret: Secret::new("tn1-\"#*~$=".to_owned()),
            server_addr: vec!["[2001:db8::1]:7000".to_owned()],
            grade: Grade::Callback,
            ..crate::access::tests::access()
        };
        let wanted = [
            Wanted::new(Protocol::Tcp, "22", 20_005),
            Wanted::new(Protocol::Udp, "[::1]:53", 0),
        ];
        let text = File {
            access: &access,
            server_addr: &access.server_addr[0],
            control: "https://c.example.org/",
            proxies: &proxies(&wanted, "box", Lang::En).unwrap(),
            admin: &Admin::new(7_400),
            ca_file: Some("/run/ca.pem"),
        }
        .toml()
        .unwrap();
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["serverAddr"].as_str(), Some("2001:db8::1"));
        assert_eq!(read["loginFailExit"].as_bool(), Some(false));
        let oidc = &read["auth"]["oidc"];
        assert_eq!(oidc["clientSecret"].as_str(), Some("tn1-\"#*~$="));
        let url = "https://c.example.org/api/v1/oauth/token";
        assert_eq!(oidc["tokenEndpointURL"].as_str(), Some(url));
        let transport = &read["transport"];
        assert_eq!(transport["heartbeatInterval"].as_integer(), Some(30));
        let ca = transport["tls"]["trustedCaFile"].as_str();
        assert_eq!(ca, Some("/run/ca.pem"));
        assert_eq!(read["webServer"]["port"].as_integer(), Some(7_400));
        let proxies = read["proxies"].as_array().unwrap();
        assert_eq!(proxies[0]["remotePort"].as_integer(), Some(20_005));
        assert_eq!(proxies[1]["localIP"].as_str(), Some("::1"));
        assert_eq!(proxies[1]["type"].as_str(), Some("udp"));
    }
}
