//! frpc's own admin API on loopback: the only place where the port that a node chose can be read.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use serde::Deserialize;

use crate::access::Secret;

/// How long an answer from this machine may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The largest answer, bytes.
const MAX_BODY: usize = 256 << 10;

/// One run's admin API.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Basic's user.
    pub user: String,
    /// Basic's password.
    pub password: Secret,
    http: reqwest::Client,
}

/// How a proxy stands, in frpc's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its name, with the user's before it.
    pub name: String,
    /// `running`, `start error`, `wait start`, `new`, …
    pub status: String,
    /// Why not.
    pub err: String,
    /// Where it is reached, `host:port`.
    pub remote_addr: String,
}

impl Admin {
    /// One on this port, with a password that only this run knows.
    #[must_use]
    pub fn new(port: u16) -> Self {
        let mut password = [0; 16];
        // Without the system's randomness there is no TLS either.
        getrandom::fill(&mut password).ok();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            // Plain HTTP on loopback: the system's certificates need not be read.
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Admin {
            port,
            user: "totoro".to_owned(),
            password: Secret::new(hex::encode(password)),
            http: http.unwrap_or_default(),
        }
    }

    /// One on a port that is free now. frpc can't take one that the kernel chooses, so another could
    /// be first: frpc then says so, and the next run tries another.
    ///
    /// # Errors
    /// There is none.
    pub fn on_free_port() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Admin::new(listener.local_addr()?.port()))
    }

    /// All proxies; `None` when it does not answer.
    pub async fn status(&self) -> Option<Vec<Status>> {
        let url = format!("http://127.0.0.1:{}/api/status", self.port);
        let request = self.http.get(url);
        let request = request.basic_auth(&self.user, Some(self.password.reveal()));
        let mut response = request.send().await.ok()?.error_for_status().ok()?;
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.ok()? {
            if body.len() + part.len() > MAX_BODY {
                return None;
            }
            body.extend(&part);
        }
        read(&body)
    }
}

fn read(body: &[u8]) -> Option<Vec<Status>> {
    let by_type: BTreeMap<String, Vec<Status>> = serde_json::from_slice(body).ok()?;
    Some(by_type.into_values().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_061_and_070_answer() {
        assert_eq!(read(b"{}"), Some(Vec::new()));
        let body = br#"{"tcp":[{"name":"i.a","type":"tcp","status":"running","err":"",
            "local_addr":"127.0.0.1:22","plugin":"","remote_addr":"h:20000","source":"config"}]}"#;
        let read_back = read(body).unwrap();
        assert_eq!(read_back[0].remote_addr, "h:20000");
        assert_eq!(read(b"[]"), None);
    }
}
