//! `control.toml`: what an operator sets. Secrets are files beside it, never values in it.

mod defaults;
mod rates;
mod settings;
mod url;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::rates::Rates;
pub use self::settings::{Settings, print};
pub(crate) use self::url::is_loopback_url;

use self::defaults::{
    default_cache, default_connections, default_connections_per_address, default_data,
    default_heartbeat, default_invites_per_node, default_layer, default_page, default_ping,
    default_port_time, default_secrets, default_stream_life, default_ticket_ttl,
};
use self::url::url_problem;
use crate::audit::AuditSettings;
use crate::duration::Span;
use crate::reach::Listing;

/// The settings. Relative paths are relative to the file's directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where clients reach it; goes into the generated frpc.toml.
    pub public_url: String,
    /// Where to serve `/api/v1/admin` and `/metrics` instead, for admins alone. On loopback it is
    /// plain HTTP, which does not leave this machine; elsewhere it has the same TLS as `listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<SocketAddr>,
    /// Serve keys over plain HTTP on an address that is not loopback. Only for closed networks:
    /// whoever is on the path reads keys, codes and tickets.
    #[serde(default)]
    pub insecure_http: bool,
    /// The store.
    #[serde(default = "default_data")]
    pub data_dir: PathBuf,
    /// Secret files, mode 0600 each.
    #[serde(default = "default_secrets")]
    pub secrets_dir: PathBuf,
    /// A ticket's life, at most 24 h.
    #[serde(default = "default_ticket_ttl")]
    pub ticket_ttl: Span,
    /// How often nodes report; three missed make a node offline.
    #[serde(default = "default_heartbeat")]
    pub heartbeat_interval: Span,
    /// How often the clients of a node without our daemon ping; three missed pings end a session's
    /// leases.
    #[serde(default = "default_ping")]
    pub callback_ping: Span,
    /// How long a node's stream of its policy lives at most; each ends by chance in the second half.
    #[serde(default = "default_stream_life")]
    pub stream_life: Span,
    /// How long a lost session's ports wait for it, on nodes without our daemon.
    #[serde(default = "default_port_time")]
    pub port_reserve: Span,
    /// How long after that they are nobody else's yet.
    #[serde(default = "default_port_time")]
    pub port_cool: Span,
    /// Invites of one node at most, those that are over and not yet forgotten included; 1 to 100,000: a
    /// node that asks for everything is sent all of them at once, and reads 32 MiB at most.
    #[serde(default = "default_invites_per_node")]
    pub invites_per_node: u32,
    /// Open connections at most; more wait to be accepted.
    #[serde(default = "default_connections")]
    pub max_connections: u32,
    /// Open connections at most of one IPv4 address or IPv6 /64; more are closed.
    #[serde(default = "default_connections_per_address")]
    pub connections_per_address: u32,
    /// Proxies in front of this one, like `127.0.0.1/32`: of them `X-Forwarded-For` is believed.
    #[serde(default)]
    pub trusted_proxies: Vec<IpNet>,
    /// The store's page cache, MiB.
    #[serde(default = "default_cache")]
    pub cache_mib: u32,
    /// Changes that are held in memory on their way to sled, KiB; the log takes twice as much.
    #[serde(default = "default_layer")]
    pub layer_kib: u32,
    /// Serve a page for people at `/`: the public nodes, and a box for an invite's code.
    #[serde(default = "default_page")]
    pub page: bool,
    /// Requests per minute and address on what anyone may call.
    #[serde(default)]
    pub rate: Rates,
    /// When public nodes are listed.
    #[serde(default)]
    pub listing: Listing,
    /// How long the audit trail is kept.
    #[serde(default)]
    pub audit: AuditSettings,
    /// Serve TLS with these files. Without them: plain HTTP, behind a proxy that serves TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
}

/// Certificate and key in PEM; both are read again on SIGHUP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The server's certificate and those up to the root.
    pub cert: PathBuf,
    /// Its private key, mode 0600.
    pub key: PathBuf,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML of this shape.
    #[error("{path}: {problem}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        problem: String,
    },
    /// A value that cannot hold.
    #[error("{key}: {problem}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What is wrong with it, and what to write.
        problem: String,
    },
}

impl Config {
    /// Settings for a new installation: everything but the addresses at its default.
    #[must_use]
    pub fn new(listen: SocketAddr, public_url: String) -> Self {
        Config {
            listen,
            public_url,
            admin_listen: None,
            insecure_http: false,
            data_dir: default_data(),
            secrets_dir: default_secrets(),
            ticket_ttl: default_ticket_ttl(),
            heartbeat_interval: default_heartbeat(),
            callback_ping: default_ping(),
            stream_life: default_stream_life(),
            port_reserve: default_port_time(),
            port_cool: default_port_time(),
            invites_per_node: default_invites_per_node(),
            max_connections: default_connections(),
            connections_per_address: default_connections_per_address(),
            trusted_proxies: Vec::new(),
            cache_mib: default_cache(),
            layer_kib: default_layer(),
            page: default_page(),
            rate: Rates::default(),
            listing: Listing::default(),
            audit: AuditSettings::default(),
            tls: None,
        }
    }

    /// Whether TLS is served on the admins' own address.
    #[must_use]
    pub fn admin_has_tls(&self) -> bool {
        let beyond = |at: SocketAddr| !at.ip().is_loopback();
        self.tls.is_some() && self.admin_listen.is_some_and(beyond)
    }

    /// Reads and checks a file with these settings over it; relative paths in the file become
    /// absolute.
    ///
    /// # Errors
    /// When it cannot be read, parsed or held to.
    pub fn load(path: &Path, over: &Settings) -> Result<Self, ConfigError> {
        let mut config: Config = if over.is_empty() {
            parsed(path, toml::from_str(&read(path)?))?
        } else {
            let mut table = read_table(path)?;
            over.over(&mut table)?;
            parsed(path, table.try_into())?
        };
        let mut dir = std::path::absolute(path).map_err(|source| unreadable(path, source))?;
        dir.pop();
        config.data_dir = dir.join(&config.data_dir);
        config.secrets_dir = dir.join(&config.secrets_dir);
        if let Some(tls) = &mut config.tls {
            tls.cert = dir.join(&tls.cert);
            tls.key = dir.join(&tls.key);
        }
        config.public_url = config.public_url.trim_end_matches('/').to_owned();
        config.check()?;
        Ok(config)
    }

    /// Whether the settings can hold together.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bad = |key, problem: String| Err(ConfigError::Value { key, problem });
        for (key, address) in [
            ("listen", Some(self.listen)),
            ("admin_listen", self.admin_listen),
        ] {
            let Some(address) = address else { continue };
            if !address.ip().is_loopback() && self.tls.is_none() && !self.insecure_http {
                return bad(
                    key,
                    format!(
                        "{address} is not loopback, and keys would travel over plain HTTP: name \
                         certificate and key under [tls], listen on loopback behind a TLS proxy, \
                         or set insecure_http = true on a closed network"
                    ),
                );
            }
        }
        if self
            .admin_listen
            .is_some_and(|at| at == self.listen && at.port() != 0)
        {
            return bad(
                "admin_listen",
                "is the same as listen: choose another port, or leave it out".to_owned(),
            );
        }
        match url_problem(&self.public_url) {
            Some(problem) => return bad("public_url", problem.to_owned()),
            None if self.public_url.starts_with("http://")
                && !self.insecure_http
                && !is_loopback_url(&self.public_url) =>
            {
                return bad(
                    "public_url",
                    "clients would send their codes over plain HTTP: use https, or set \
                     insecure_http = true on a closed network"
                        .to_owned(),
                );
            }
            None => {}
        }
        let day = Duration::from_secs(86_400);
        if self.ticket_ttl.0 < Duration::from_secs(1) || self.ticket_ttl.0 > day {
            return bad("ticket_ttl", "must be 1s to 24h".to_owned());
        }
        let interval = self.heartbeat_interval.0;
        if interval < Duration::from_secs(1) || interval > Duration::from_secs(300) {
            return bad("heartbeat_interval", "must be 1s to 5m".to_owned());
        }
        if !(1..=3600).contains(&self.callback_ping.secs()) {
            return bad("callback_ping", "must be 1s to 1h".to_owned());
        }
        if !(1..=86_400).contains(&self.stream_life.secs()) {
            return bad("stream_life", "must be 1s to 1d".to_owned());
        }
        if !(1..=100_000).contains(&self.invites_per_node) {
            return bad("invites_per_node", "must be 1 to 100000".to_owned());
        }
        for (key, span) in [
            ("port_reserve", self.port_reserve),
            ("port_cool", self.port_cool),
        ] {
            if span.0 > 7 * day {
                return bad(key, "must be at most 7d".to_owned());
            }
        }
        for (key, value) in [
            ("max_connections", self.max_connections),
            ("connections_per_address", self.connections_per_address),
            ("cache_mib", self.cache_mib),
            ("layer_kib", self.layer_kib),
        ] {
            if value == 0 {
                return bad(key, "must not be 0".to_owned());
            }
        }
        if let Some((key, problem)) = self.rate.problem() {
            return bad(key, problem.to_owned());
        }
        match self.audit.problem() {
            Some((key, problem)) => bad(key, problem),
            None => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: std::io::Error) -> ConfigError {
    ConfigError::Read {
        path: path.to_owned(),
        source,
    }
}

/// A file before it is held to any shape.
fn read_table(path: &Path) -> Result<toml::Table, ConfigError> {
    parsed(path, read(path)?.parse())
}

fn parsed<T>(path: &Path, read: Result<T, toml::de::Error>) -> Result<T, ConfigError> {
    read.map_err(|error| ConfigError::Parse {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str, url: &str, insecure: bool) -> Config {
        Config {
            insecure_http: insecure,
            ..Config::new(listen.parse().unwrap(), url.to_owned())
        }
    }

    #[test]
    fn keys_never_travel_in_the_clear_unasked() {
        for (listen, url, insecure, good) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080", false, true),
            ("[::1]:8080", "http://[::1]:8080", false, true),
            ("127.0.0.1:8080", "http://localhost", false, true),
            ("127.0.0.1:8080", "https://control.example.org", false, true),
            ("10.0.0.1:8080", "https://control.example.org", false, false),
            ("127.0.0.1:8080", "http://control.example.org", false, false),
            ("0.0.0.0:8080", "http://10.0.0.1:8080", true, true),
            ("127.0.0.1:8080", "ftp://x", true, false),
            ("127.0.0.1:8080", "http://a\"b", true, false),
            ("127.0.0.1:8080", "http://", true, false),
        ] {
            let checked = config(listen, url, insecure).check();
            assert_eq!(
                checked.is_ok(),
                good,
                "{listen} {url} {insecure}: {checked:?}"
            );
        }
    }

    #[test]
    fn tls_opens_other_addresses_and_admins_may_have_their_own() {
        let tls = Some(TlsFiles {
            cert: "cert.pem".into(),
            key: "key.pem".into(),
        });
        for (listen, admin, tls, good) in [
            ("10.0.0.1:443", None, tls.clone(), true),
            ("10.0.0.1:443", Some("127.0.0.1:1"), tls.clone(), true),
            ("10.0.0.1:443", Some("10.0.0.1:444"), tls.clone(), true),
            ("10.0.0.1:443", Some("10.0.0.1:443"), tls, false),
            ("127.0.0.1:1", Some("10.0.0.1:444"), None, false),
            ("127.0.0.1:0", Some("127.0.0.1:0"), None, true),
        ] {
            let config = Config {
                admin_listen: admin.map(|at| at.parse().unwrap()),
                tls,
                ..config(listen, "https://control.example.org", false)
            };
            let checked = config.check();
            assert_eq!(checked.is_ok(), good, "{listen} {admin:?}: {checked:?}");
            let own = admin.is_some_and(|at| at.starts_with("10.")) && config.tls.is_some();
            assert_eq!(config.admin_has_tls(), own);
        }
    }

    #[test]
    fn what_is_written_is_read_and_unknown_keys_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.toml");
        let config = config("127.0.0.1:8080", "http://localhost:8080", false);
        std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let read = Config::load(&path, &Settings::default()).unwrap();
        assert_eq!(read.data_dir, dir.path().join("data"));
        assert_eq!(
            (read.ticket_ttl, read.rate, read.audit),
            (config.ticket_ttl, config.rate, config.audit)
        );
        std::fs::write(
            &path,
            "listen = \"127.0.0.1:1\"\npublic_url = \"http://[::1]\"\ntickt = 1",
        )
        .unwrap();
        assert!(
            Config::load(&path, &Settings::default())
                .unwrap_err()
                .to_string()
                .contains("tickt")
        );
    }
}
