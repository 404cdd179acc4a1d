//! frps's admin API: its version, and which proxies it has.

pub mod answer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use reqwest::Response;
use serde::Deserialize;
use totoro_api::ports::{Pool, PortSet, Protocol};

use self::answer::Answer;
use crate::body::{self, BodyError};
use crate::config::Config;
use crate::health::Health;
use crate::secret;
use crate::session::{Desk, Online, Proxied};

/// frps answers from memory on loopback.
const CALL: Duration = Duration::from_secs(3);
/// The longest that it says of itself, bytes: its `allowPorts` are the most of it.
const MAX_INFO: usize = 1 << 20;
/// So much of its list of proxies is read in one go: about a hundred of them.
const PIECE: usize = 64 << 10;
/// Where it ends too soon.
const BROKE_OFF: &str = "frps's admin API broke off";
/// Where what came is not what it answers.
const ELSE: &str = "frps's admin API answered something else";
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
    /// Where it listens for frpc.
    #[serde(default, rename = "bindPort")]
    pub bind_port: Option<u16>,
    /// Its `allowPorts`, as ranges; it leaves them out where it has none, and allows all.
    #[serde(default, rename = "allowPortsStr")]
    pub allow_ports: String,
}

impl ServerInfo {
    /// The pool's ports when frps may not open all of them: what it would refuse after we leased.
    #[must_use]
    pub fn lacks(&self, pool: &Pool) -> Option<PortSet> {
        if self.allow_ports.is_empty() {
            return None;
        }
        let all = Protocol::ALL.iter().flat_map(|of| pool.of(*of).ranges());
        let all: PortSet = all.copied().collect();
        let allowed: PortSet = self.allow_ports.parse().unwrap_or_default();
        (!all.is_subset(&allowed)).then_some(all)
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

    async fn get(&self, path: &str) -> Result<Response> {
        let request = self
            .client
            .get(format!("{}{path}", self.base))
            .basic_auth("totoro", Some(&self.password));
        let response = request.send().await.context("frps's admin API")?;
        response.error_for_status().context("frps's admin API")
    }

    /// frps's version, and the ports that it may open.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn info(&self) -> Result<ServerInfo> {
        let response = self.get("/api/serverinfo").await?;
        let body = body::whole(response, MAX_INFO).await;
        let body = body.map_err(|error| match error {
            BodyError::Broken(error) => Error::new(error).context(BROKE_OFF),
            too_long => Error::new(too_long).context(ELSE),
        })?;
        serde_json::from_slice(&body).context(ELSE)
    }

    /// Hands over the proxies that are online while frps lists them, with their names, which are frps's own
    /// keys.
    async fn online(&self, mut found: impl FnMut(Vec<(String, Proxied)>)) -> Result<()> {
        for protocol in Protocol::ALL {
            let mut response = self.get(&format!("/api/proxy/{protocol}")).await?;
            let mut answer = Answer::new(protocol);
            while let Some(bytes) = response.chunk().await.context(BROKE_OFF)? {
                for piece in bytes.chunks(PIECE) {
                    found(answer.take(piece).context(ELSE)?);
                    tokio::task::yield_now().await;
                }
            }
            answer.end().context(ELSE)?;
        }
        Ok(())
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
        let mut online = Online::asked(clock.now_ms());
        wait = match frps.online(|found| desk.look(&mut online, found)).await {
            Ok(()) => {
                failed = false;
                health.frps(Ok(()));
                rest = rested(online.count());
                let comparing = Arc::clone(&desk);
                let young = tokio::task::spawn_blocking(move || comparing.compare(online)).await;
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn many_proxies_are_listed_less_often() {
        let seconds = [0, 10, 20_000, 65_536].map(|proxies| rested(proxies).as_secs_f64());
        assert_eq!(seconds, [0.0, 0.01, 20.0, 60.0]);
    }

    #[test]
    fn a_frps_without_allow_ports_lacks_none() {
        let pool = Pool {
            tcp: "20000-20009".parse().unwrap(),
            udp: "20020".parse().unwrap(),
        };
        let lacks = |said: &str| {
            let info: ServerInfo = serde_json::from_str(said).unwrap();
            info.lacks(&pool).is_some()
        };
        for (said, is_lacking) in [
            (r#"{"version":"0.70.1"}"#, false),
            (r#"{"version":"0.70.1","allowPortsStr":""}"#, false),
            (
                r#"{"version":"0.70.1","allowPortsStr":"20000-20020"}"#,
                false,
            ),
            (
                r#"{"version":"0.70.1","allowPortsStr":"20000-20009"}"#,
                true,
            ),
        ] {
            assert_eq!(lacks(said), is_lacking, "{said}");
        }
    }

    /// What one says that gets these bodies in turn, and how many proxies it found.
    async fn look(bodies: [&'static str; 2]) -> Result<usize> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let frps = Frps {
            client: reqwest::Client::builder().no_proxy().build()?,
            base: format!("http://{}", listener.local_addr()?),
            password: String::new(),
        };
        tokio::spawn(async move {
            for body in bodies {
                let (mut stream, _) = listener.accept().await?;
                let mut asked = [0; 1024];
                let _ = stream.read(&mut asked).await?;
                let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{body}");
                stream.write_all(answer.as_bytes()).await?;
            }
            std::io::Result::Ok(())
        });
        let mut count = 0;
        frps.online(|found| count += found.len()).await?;
        Ok(count)
    }

    #[tokio::test]
    async fn a_look_is_whole_or_says_why_not() {
        const ONE: &str = "\r\n{\"proxies\":[{\"name\":\"a\",\"status\":\"online\"}]}";
        const SHORT: &str = "content-length: 99\r\n\r\n{\"proxies\":[]}";
        let _ = rustls::crypto::ring::default_provider().install_default();
        assert_eq!(look([ONE, ONE]).await.unwrap(), 2);
        let error = |bodies| async move { format!("{:#}", look(bodies).await.unwrap_err()) };
        let off = error([ONE, SHORT]).await;
        assert!(off.starts_with("frps's admin API broke off: "), "{off}");
        let other = error([ONE, "\r\n<html>"]).await;
        let why = "frps's admin API answered something else: an unexpected `<` after 0 bytes";
        assert_eq!(other, why);
    }
}
