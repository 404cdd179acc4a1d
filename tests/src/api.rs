//! A small client of the REST API, from within a namespace.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use reqwest::Method;
use reqwest::blocking::{Client, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use totoro_api::Reason;
use totoro_api::wire::problem::Problem;

use crate::lab::Netns;

/// The API, with one credential.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    base: String,
    token: Option<String>,
}

/// What the API answered.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The ETag, where there is one.
    pub etag: Option<String>,
    /// The body.
    pub body: String,
}

impl Api {
    /// A client whose connections come from `ns`.
    ///
    /// # Errors
    /// The client can't be made.
    pub fn new(ns: &Netns, base: &str, token: Option<&str>) -> Result<Api> {
        // Its threads are started here, and a thread keeps the namespace of who started it.
        let client = ns.run(|| {
            Client::builder()
                .timeout(Duration::from_secs(40))
                .connect_timeout(Duration::from_secs(5))
                .no_proxy()
                .build()
                .context("make an HTTP client")
        })?;
        Ok(Api {
            client,
            base: base.to_owned(),
            token: token.map(str::to_owned),
        })
    }

    /// The same client with another credential.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Api {
        Api {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// One request, whatever its answer.
    ///
    /// # Errors
    /// There is no answer.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        etag: Option<&str>,
    ) -> Result<Answer> {
        let mut request = self
            .client
            .request(method, format!("{}/api/v1{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        read(request.send().with_context(|| format!("request {path}"))?)
    }

    /// GET, typed.
    ///
    /// # Errors
    /// No answer, or not the one that was hoped for.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send(Method::GET, path, None::<&()>, None)?.typed()
    }

    /// POST, typed.
    ///
    /// # Errors
    /// No answer, or not the one that was hoped for.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.send(Method::POST, path, Some(body), None)?.typed()
    }

    /// PATCH of what was just read, typed.
    ///
    /// # Errors
    /// No answer, or not the one that was hoped for.
    pub fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let etag = self.send(Method::GET, path, None::<&()>, None)?.etag;
        self.send(Method::PATCH, path, Some(body), etag.as_deref())?
            .typed()
    }

    /// DELETE; the answer's body is not read.
    ///
    /// # Errors
    /// No answer, or an error.
    pub fn delete(&self, path: &str) -> Result<()> {
        let etag = self.send(Method::GET, path, None::<&()>, None)?.etag;
        self.send(Method::DELETE, path, None::<&()>, etag.as_deref())?
            .success()
            .map(drop)
    }

    /// POST that must be refused: the reason.
    ///
    /// # Errors
    /// It was not refused, or by something that is no problem body.
    pub fn refused(&self, path: &str, body: &impl Serialize) -> Result<Reason> {
        let answer = self.send(Method::POST, path, Some(body), None)?;
        if answer.status < 400 {
            bail!("{path} was allowed ({})", answer.status);
        }
        Ok(answer.problem()?.code)
    }
}

impl Answer {
    /// The answer itself, when it is no error.
    ///
    /// # Errors
    /// The problem that it is.
    pub fn success(self) -> Result<Answer> {
        if self.status < 400 {
            return Ok(self);
        }
        let problem = self.problem()?;
        bail!("HTTP {}: {}: {}", self.status, problem.code, problem.detail)
    }

    fn typed<T: DeserializeOwned>(self) -> Result<T> {
        let answer = self.success()?;
        serde_json::from_str(&answer.body).with_context(|| format!("read {:.200}", answer.body))
    }

    fn problem(&self) -> Result<Problem> {
        serde_json::from_str(&self.body).map_err(|why| {
            anyhow!(
                "HTTP {} with no problem body ({why}): {:.200}",
                self.status,
                self.body
            )
        })
    }
}

fn read(response: Response) -> Result<Answer> {
    let status = response.status().as_u16();
    let etag = response
        .headers()
        .get("etag")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    Ok(Answer {
        status,
        etag,
        body: response.text().context("read the answer")?,
    })
}
