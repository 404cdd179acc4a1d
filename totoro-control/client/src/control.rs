//! The control plane, as its visitor sees it. Whatever answers there is somebody else: every answer is
//! bounded in time and size, no redirect is followed (a code must not be sent elsewhere), and what is
//! read is checked before it is used.

use std::time::{Duration, Instant, SystemTime};

use reqwest::{Method, Response, StatusCode, redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use totoro_api::code::InviteCode;
use totoro_api::wire::invite::{Code, PublicTicket, Resolved, Usage};
use totoro_api::wire::node::{PublicNode, PublicNodePage};

use crate::error::Error;
use crate::told::{Told, clean};

/// The longest that one request may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest that a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);
/// The largest answer about one thing, bytes.
const MAX_BODY: usize = 512 << 10;
/// The largest page of nodes, bytes.
const MAX_PAGE: usize = 4 << 20;
/// The most pages of nodes: 100 nodes each.
const MAX_PAGES: usize = 20;
/// The longest address, bytes.
const MAX_URL: usize = 255;

/// A control plane.
#[derive(Clone, Debug)]
pub struct Control {
    http: reqwest::Client,
    base: String,
}

/// An error's body, of any version: an unknown code is no reason not to read the rest.
#[derive(Deserialize)]
struct Problem {
    code: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    next: String,
}

impl Control {
    /// The one at this URL.
    ///
    /// # Errors
    /// It is no URL, or plain HTTP to another machine without `insecure_http`.
    pub fn new(url: &str, insecure_http: bool) -> Result<Self, Error> {
        let base = url.trim().trim_end_matches('/');
        let parsed = reqwest::Url::parse(base).ok();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]".contains(&byte);
        let parsed = parsed.filter(|parsed| {
            matches!(parsed.scheme(), "http" | "https")
                && parsed.has_host()
                && parsed.username().is_empty()
                && base.len() <= MAX_URL
                && base.bytes().all(plain)
        });
        let Some(parsed) = parsed else {
            return Err(Error::BadControl(clean(base)));
        };
        let local = is_loopback(&parsed);
        if parsed.scheme() == "http" && !local && !insecure_http {
            return Err(Error::InsecureHttp(base.to_owned()));
        }
        // Already installed is fine: it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("totoro/", env!("CARGO_PKG_VERSION")));
        if local {
            builder = builder.no_proxy();
        }
        if parsed.scheme() == "http" {
            // Nobody's certificate is checked: reading the system's would only take time.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| Error::Unreachable {
            url: base.to_owned(),
            cause: chain(&error),
        })?;
        Ok(Control {
            http,
            base: base.to_owned(),
        })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// What a code is good for.
    ///
    /// # Errors
    /// The refusal; no answer, or not one of a control plane.
    pub async fn resolve(&self, code: &InviteCode) -> Result<Resolved, Error> {
        let body = Code {
            code: code.to_string(),
        };
        self.ask(Method::POST, "/invites/resolve", Some(&body), MAX_BODY)
            .await
    }

    /// What is in use under a code.
    ///
    /// # Errors
    /// See [`Control::resolve`].
    pub async fn usage(&self, code: &InviteCode) -> Result<Usage, Error> {
        let body = Code {
            code: code.to_string(),
        };
        self.ask(Method::POST, "/invites/usage", Some(&body), MAX_BODY)
            .await
    }

    /// A way into a public node, by its name or id.
    ///
    /// # Errors
    /// See [`Control::resolve`].
    pub async fn public_ticket(&self, node: &str) -> Result<PublicTicket, Error> {
        if !is_id(node) {
            return Err(Error::refused(totoro_api::Reason::NodeUnknown.into()));
        }
        let path = format!("/public/nodes/{node}/ticket");
        self.ask(Method::POST, &path, None::<&()>, MAX_BODY).await
    }

    /// All public nodes, or the first 2,000.
    ///
    /// # Errors
    /// See [`Control::resolve`].
    pub async fn public_nodes(&self) -> Result<Vec<PublicNode>, Error> {
        let mut nodes = Vec::new();
        let mut path = "/public/nodes?limit=100".to_owned();
        for _ in 0..MAX_PAGES {
            let page: PublicNodePage = self.ask(Method::GET, &path, None::<&()>, MAX_PAGE).await?;
            nodes.extend(page.items.into_iter().take(100));
            match page.next.filter(|next| is_id(next)) {
                Some(next) => path = format!("/public/nodes?limit=100&cursor={next}"),
                None => break,
            }
        }
        Ok(nodes)
    }

    /// Its clock, and how long the answer took.
    ///
    /// # Errors
    /// See [`Control::resolve`].
    pub async fn clock(&self) -> Result<(SystemTime, Duration), Error> {
        let begun = Instant::now();
        let request = self.request(Method::GET, "/public/nodes?limit=1");
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let date = response.headers().get("date");
        let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let took = begun.elapsed();
        let date = date.ok_or_else(|| self.nonsense("it tells no time"))?;
        Ok((date, took))
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/api/v1{path}", self.base);
        self.http.request(method, url)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: usize,
    ) -> Result<T, Error> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = self.body(response, limit).await?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body)
                .map_err(|error| self.nonsense(&format!("it cannot be read ({error})")));
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(Problem { code, detail, next }) if !code.is_empty() => {
                Err(Error::refused(Told::new(&code, &detail, &next)))
            }
            _ if status.is_redirection() => {
                Err(self.nonsense(&format!("HTTP {}: it sends elsewhere", status.as_u16())))
            }
            _ => Err(self.nonsense(&format!("HTTP {}", status.as_u16()))),
        }
    }

    /// The body, unless it is larger than any true one.
    async fn body(&self, mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(part)) if body.len() + part.len() <= limit => body.extend(&part),
                Ok(Some(_)) => {
                    return Err(self.nonsense(&format!("more than {} KiB", limit >> 10)));
                }
                Ok(None) => return Ok(body),
                Err(error) => return Err(self.unreachable(&error)),
            }
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        Error::Unreachable {
            url: self.base.clone(),
            cause: chain(error),
        }
    }

    fn nonsense(&self, problem: &str) -> Error {
        Error::Nonsense {
            url: self.base.clone(),
            problem: clean(problem),
        }
    }
}

/// The innermost cause: the rest says "error sending request" in several ways.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    clean(&last.to_string())
}

/// Whether a text may be an id or a name: letters, digits, `-`, `_`, at most 63.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=63).contains(&text.len()) && text.bytes().all(plain)
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or("");
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in [
            "https://control.example.org",
            "https://control.example.org:8443/totoro/",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
            "http://localhost",
        ] {
            Control::new(good, false).unwrap();
        }
        let refused = |url: &str| Control::new(url, false).unwrap_err();
        let clear = refused("http://control.example.org");
        assert!(matches!(clear, Error::InsecureHttp(_)));
        Control::new("http://control.example.org", true).unwrap();
        for bad in [
            "",
            "control",
            "ftp://x",
            "https://",
            "https://u:p@x",
            "https://x/?a=b",
        ] {
            assert!(matches!(refused(bad), Error::BadControl(_)), "{bad}");
        }
    }

    #[test]
    fn ids() {
        assert!(is_id("node-1") && is_id("eu_2"));
        for bad in ["", "a/b", "../x", "a b", "é", &"a".repeat(64)] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
