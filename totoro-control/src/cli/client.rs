//! REST from the command line.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use totoro_api::wire::problem::Problem;

use super::CliError;
use crate::config::is_loopback_url;
use crate::keys::read_secret;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a long answer may take as a whole; each part has [`TIMEOUT`].
const LONG: Duration = Duration::from_secs(86_400);
/// How often a change is tried again when another was first.
const ATTEMPTS: usize = 5;

/// A control plane and the token to talk to it with.
pub(super) struct Client {
    http: reqwest::Client,
    api: String,
    token: String,
}

impl Client {
    pub(super) fn new(
        api: &str,
        token_file: Option<&Path>,
        insecure_http: bool,
    ) -> Result<Self, CliError> {
        if !api.starts_with("https://") && !is_loopback_url(api) && !insecure_http {
            return Err(CliError::Usage(format!(
                "{api} is neither https nor this machine, and the admin token would travel in the \
                 clear: use https, or on a closed network say --insecure-http (or set \
                 TOTORO_INSECURE_HTTP=true)"
            )));
        }
        let token = match (token_file, std::env::var("TOTORO_TOKEN")) {
            (Some(file), _) => String::from_utf8_lossy(&read_secret(file)?)
                .trim()
                .to_owned(),
            (None, Ok(token)) => token.trim().to_owned(),
            (None, Err(_)) => {
                let problem = "no token: name its file with --token-file, or set TOTORO_TOKEN";
                return Err(CliError::Usage(problem.to_owned()));
            }
        };
        // Already installed is fine: it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder().timeout(TIMEOUT);
        if is_loopback_url(api) {
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| {
            let cause = std::error::Error::source(&error);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            let next = "where the system has no certificates of authorities: apt-get install ca-certificates";
            CliError::Failed(format!("no HTTP client: {error}{cause}; {next}"))
        })?;
        Ok(Client {
            http,
            api: api.trim_end_matches('/').to_owned(),
            token,
        })
    }

    /// The same control plane with another token.
    pub(super) fn with_token(&self, token: String) -> Self {
        Client {
            http: self.http.clone(),
            api: self.api.clone(),
            token,
        }
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.send(Method::GET, path, None, None::<&()>, &[]).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        headers: &[(&str, &str)],
    ) -> Result<T, CliError> {
        self.send(Method::POST, path, None, Some(body), headers)
            .await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), CliError> {
        self.send::<()>(Method::DELETE, path, None, None::<&()>, &[])
            .await
    }

    /// Removes this version of a thing.
    pub(super) async fn delete_version(&self, path: &str, version: u64) -> Result<(), CliError> {
        self.send::<()>(Method::DELETE, path, Some(version), None::<&()>, &[])
            .await
    }

    /// Reads a thing, makes a change from it and sends that under the version that was read; again
    /// when another change was first.
    pub(super) async fn update<T: DeserializeOwned, B: Serialize>(
        &self,
        (method, read_path, write_path): (Method, &str, &str),
        version: impl Fn(&T) -> u64,
        change: impl Fn(&T) -> Result<Option<B>, CliError>,
    ) -> Result<T, CliError> {
        let mut attempt = 1;
        loop {
            let seen: T = self.get(read_path).await?;
            let body = change(&seen)?;
            let version = Some(version(&seen));
            let sent = self
                .send(method.clone(), write_path, version, body.as_ref(), &[])
                .await;
            match sent {
                Err(CliError::Refused(problem))
                    if problem.status == StatusCode::PRECONDITION_FAILED && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        version: Option<u64>,
        body: Option<&impl Serialize>,
        headers: &[(&str, &str)],
    ) -> Result<T, CliError> {
        let url = format!("{}/api/v1{path}", self.api);
        let mut request = self.http.request(method, &url).bearer_auth(&self.token);
        if let Some(version) = version {
            request = request.header("if-match", format!("\"{version}\""));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error| self.unreachable(error);
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let body = response.bytes().await.map_err(unreachable)?;
        if status.is_success() {
            // An empty answer is `null`, which is what `()` reads.
            let body: &[u8] = if body.is_empty() { b"null" } else { &body };
            return serde_json::from_slice(body).map_err(|error| {
                CliError::Failed(format!(
                    "{} answered what cannot be read: {error}",
                    self.api
                ))
            });
        }
        Err(self.refused(status, &body))
    }

    /// Opens a long answer, to be read part by part with [`Client::part`].
    pub(super) async fn open(
        &self,
        method: Method,
        path: &str,
        media: &str,
    ) -> Result<Response, CliError> {
        let url = format!("{}/api/v1{path}", self.api);
        let request = self.http.request(method, &url).bearer_auth(&self.token);
        let request = request.header("accept", media).timeout(LONG);
        let unreachable = |error| self.unreachable(error);
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(unreachable)?;
        Err(self.refused(status, &body))
    }

    /// The next part of a long answer; `None` at its end.
    pub(super) async fn part(&self, response: &mut Response) -> Result<Option<Bytes>, CliError> {
        match tokio::time::timeout(TIMEOUT, response.chunk()).await {
            Ok(part) => part.map_err(|error| self.unreachable(error)),
            Err(_) => Err(CliError::Failed(format!(
                "{} sent nothing for {TIMEOUT:?}",
                self.api
            ))),
        }
    }

    fn unreachable(&self, source: reqwest::Error) -> CliError {
        // The query is what was asked for; the base is what cannot be reached.
        CliError::Unreachable {
            url: self.api.clone(),
            source: source.without_url(),
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> CliError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => CliError::Refused(Box::new(problem)),
            Err(_) => CliError::Failed(format!("{} answered {status}", self.api)),
        }
    }

    /// A POST that is answered with a stream, which may take its time as a whole.
    pub(super) async fn stream(
        &self,
        path: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, CliError>> + use<>, CliError> {
        let response = self.open(Method::POST, path, "*/*").await?;
        let pieces = response.bytes_stream();
        Ok(pieces.map(|piece| {
            piece.map_err(|_| {
                let problem = "the answer was cut off: the server's log says why";
                CliError::Failed(problem.to_owned())
            })
        }))
    }
}

/// A path with a query of the parameters that are there.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<String>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    }
}

/// An id or name as it may stand in a path.
pub(super) fn in_path(id: &str) -> Result<&str, CliError> {
    crate::app::checked_id(id).map_err(|_| CliError::Usage(format!("{id:?} is no id")))
}
