//! frps's admin API: its version, and which proxies it has.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use totoro_api::ports::{Pool, PortSet, Protocol};

use crate::config::Config;
use crate::health::Health;
use crate::secret;
use crate::session::{Desk, Proxied};

/// frps answers from memory on loopback.
const CALL: Duration = Duration::from_secs(3);
/// How often leases and proxies are compared when nobody asks for it.
const COMPARE: Duration = Duration::from_secs(10);
/// How soon again while a lease is too young to tell.
const AGAIN: Duration = Duration::from_secs(1);
/// After each comparison it rests for so long for each proxy, and a minute at most: neither frps nor we
/// list tens of thousands of them in passing.
const REST: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(60));

/// The admin API of the frps beside us.
#[derive(Clone)]
pub struct Frps {
    client: reqwest::Client,
    base: String,
    password: String,
}

/// What frps says of itself (frp 0.70.1, `server/http/model/types.go`).
#[derive(Debug, Deserialize)]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// Its `allowPorts`, as ranges.
    #[serde(default, rename = "allowPortsStr")]
    pub allow_ports: String,
}

impl ServerInfo {
    /// The pool's ports when frps may not open all of them: what it would refuse after we leased.
    #[must_use]
    pub fn lacks(&self, pool: &Pool) -> Option<PortSet> {
        let all = Protocol::ALL.iter().flat_map(|of| pool.of(*of).ranges());
        let all: PortSet = all.copied().collect();
        let allowed: PortSet = self.allow_ports.parse().unwrap_or_default();
        (!all.is_subset(&allowed)).then_some(all)
    }
}

#[derive(Deserialize)]
struct Proxies {
    #[serde(default)]
    proxies: Vec<Proxy>,
}

#[derive(Deserialize)]
struct Proxy {
    name: String,
    #[serde(default)]
    status: String,
    /// Absent for one that is offline.
    conf: Option<Conf>,
    #[serde(default, rename = "clientID")]
    client: String,
}

#[derive(Deserialize)]
struct Conf {
    #[serde(default, rename = "remotePort")]
    remote_port: u16,
}

impl Proxy {
    /// Its name, its port and whose it is, while it is online.
    fn online(self, protocol: Protocol) -> Option<(String, Proxied)> {
        let port = self.conf.map_or(0, |conf| conf.remote_port);
        let proxied = Proxied {
            port: (protocol, port),
            client: self.client,
        };
        (self.status == "online").then_some((self.name, proxied))
    }
}

impl Frps {
    /// The API as the generated configuration has it.
    ///
    /// # Errors
    /// The password's file, or the client.
    pub fn new(config: &Config) -> Result<Frps> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(CALL)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("make an HTTP client")?;
        let path: &Path = &config.frps_password_file;
        Ok(Frps {
            client,
            base: format!("http://{}", config.frps_admin),
            password: secret::read(path)?,
        })
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = self
            .client
            .get(format!("{}{path}", self.base))
            .basic_auth("totoro", Some(&self.password));
        let response = request.send().await.context("frps's admin API")?;
        let response = response.error_for_status().context("frps's admin API")?;
        response
            .json()
            .await
            .context("frps's admin API answered something else")
    }

    /// frps's version, and the ports that it may open.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn info(&self) -> Result<ServerInfo> {
        self.get("/api/serverinfo").await
    }

    /// The proxies that are online by name, which is frps's own key.
    async fn online(&self) -> Result<BTreeMap<String, Proxied>> {
        let mut online = BTreeMap::new();
        for protocol in Protocol::ALL {
            let all: Proxies = self.get(&format!("/api/proxy/{protocol}")).await?;
            let live = all.proxies.into_iter();
            online.extend(live.filter_map(|proxy| proxy.online(protocol)));
        }
        Ok(online)
    }
}

/// Compares leases with frps's proxies for ever: a lease whose proxy never came or was lost ends.
/// Whether it answers at all goes to `health`; once without an answer is none, twice is.
pub async fn compare(desk: Arc<Desk>, frps: Frps, clock: Arc<crate::clock::Clock>, health: Health) {
    let (mut wait, mut rest) = (AGAIN, Duration::ZERO);
    let mut failed = false;
    loop {
        tokio::time::sleep(rest).await;
        let _ = tokio::time::timeout(wait, desk.reconcile.notified()).await;
        let asked_ms = clock.now_ms();
        wait = match frps.online().await {
            Ok(online) => {
                failed = false;
                health.frps(Ok(()));
                rest = rested(online.len());
                let comparing = Arc::clone(&desk);
                let young =
                    tokio::task::spawn_blocking(move || comparing.compare(&online, asked_ms)).await;
                if young.is_ok_and(|young| young > 0) {
                    AGAIN
                } else {
                    COMPARE
                }
            }
            // frps is down or not up yet: its sessions end by their connections.
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "frps can't be asked");
                rest = Duration::ZERO;
                if std::mem::replace(&mut failed, true) {
                    health.frps(Err(&error));
                    COMPARE
                } else {
                    AGAIN
                }
            }
        };
        wait = wait.saturating_sub(rest);
    }
}

/// How long to rest after so many proxies.
fn rested(proxies: usize) -> Duration {
    let each = REST
        .0
        .saturating_mul(u32::try_from(proxies).unwrap_or(u32::MAX));
    each.min(REST.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_proxies_are_listed_less_often() {
        let seconds = [0, 10, 20_000, 65_536].map(|proxies| rested(proxies).as_secs_f64());
        assert_eq!(seconds, [0.0, 0.01, 20.0, 60.0]);
    }

    #[test]
    fn the_ports_of_proxies_that_are_online_are_read() {
        // As frps 0.70.1 answers.
        let answer = r#"{"proxies":[
            {"name":"inv.a","conf":{"name":"inv.a","type":"tcp","remotePort":20001},"user":"inv","clientID":"r1",
             "todayTrafficIn":1,"curConns":0,"status":"online"},
            {"name":"inv.b","conf":null,"todayTrafficIn":0,"status":"offline"}]}"#;
        let all: Proxies = serde_json::from_str(answer).unwrap();
        let online: Vec<_> = all
            .proxies
            .into_iter()
            .filter_map(|proxy| proxy.online(Protocol::Tcp))
            .collect();
        let proxied = Proxied {
            port: (Protocol::Tcp, 20001),
            client: "r1".to_owned(),
        };
        assert_eq!(online, [("inv.a".to_owned(), proxied)]);
    }
}
