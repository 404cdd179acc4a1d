//! The control plane's REST API, as this node calls it.

mod backoff;
mod error;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use totoro_api::wire::problem::Problem;

use crate::body::{self, BodyError};

pub use backoff::Backoff;
pub use error::{CallError, Silence};

/// Every call but the long poll ends within this time.
const CALL: Duration = Duration::from_secs(20);
/// How long a look may take.
const PROBE: Duration = Duration::from_secs(6);
/// The least rest after a call that nobody answered.
const LEAST_REST: Duration = Duration::from_secs(1);
/// The longest body that is read, bytes.
const MAX_BODY: usize = 32 << 20;

/// The API, with a credential.
#[derive(Clone)]
pub struct Control {
    client: Client,
    base: String,
    key: Arc<RwLock<String>>,
    /// Where the key is from: it may be rotated while this runs.
    file: Option<PathBuf>,
    /// Told of each answer of the control plane's own, for those who wait for the next one.
    answers: Arc<Notify>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Control {
    /// The API at `base` (`https://host`), with this key or token.
    ///
    /// # Errors
    /// The client can't be made.
    pub fn new(base: &str, key: &str) -> Result<Control> {
        // Both TLS users of this process take ring; the first to come installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("totoro-node/", env!("CARGO_PKG_VERSION")))
            .build()
            .context(
                "make an HTTP client (where the system has no certificates of authorities: apt-get \
                 install ca-certificates)",
            )?;
        Ok(Control {
            client,
            base: base.to_owned(),
            key: Arc::new(RwLock::new(key.to_owned())),
            file: None,
            answers: Arc::default(),
        })
    }

    /// The API with the key of a file.
    ///
    /// # Errors
    /// The file, or the client.
    pub fn with_key_file(base: &str, file: &Path) -> Result<Control> {
        let control = Control::new(base, &crate::secret::read(file)?)?;
        Ok(Control {
            file: Some(file.to_owned()),
            ..control
        })
    }

    /// Takes the key that its file has now. True if it is another than before. What the file does
    /// not tell right now is kept.
    #[must_use]
    pub fn refresh(&self) -> bool {
        let Some(file) = &self.file else {
            return false;
        };
        let now = match crate::secret::read(file) {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the key's file can't be read");
                return false;
            }
        };
        let mut key = self.key.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = *key != now;
        *key = now;
        is_new
    }

    fn key(&self) -> String {
        let key = self.key.read().unwrap_or_else(PoisonError::into_inner);
        key.clone()
    }

    /// A request with the usual time limit.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}/api/v1{path}", self.base))
            .timeout(CALL)
    }

    /// GET.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let response = self.send(self.request(Method::GET, path)).await?;
        self.read(response).await
    }

    /// The control plane's time in an answer to this node's key, seconds since the epoch; `None` when
    /// it does not tell.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn date(&self) -> Result<Option<i64>> {
        Ok(date(&self.probe().await?))
    }

    /// The same, with the node that the control plane knows the key as.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn date_and_self<T: DeserializeOwned>(&self) -> Result<(Option<i64>, T)> {
        let response = self.probe().await?;
        Ok((date(&response), self.read(response).await?))
    }

    async fn probe(&self) -> Result<Response> {
        let request = self.request(Method::GET, "/nodes/self").timeout(PROBE);
        self.send(request).await
    }

    /// GET, with the entity's tag.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get_tagged<T: DeserializeOwned>(&self, path: &str) -> Result<(T, String)> {
        let response = self.send(self.request(Method::GET, path)).await?;
        let tag = response
            .headers()
            .get("etag")
            .and_then(|tag| tag.to_str().ok())
            .unwrap_or("*")
            .to_owned();
        Ok((self.read(response).await?, tag))
    }

    /// GET that waits for news up to `wait`; `None` when there are none.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn poll<T: DeserializeOwned>(&self, path: &str, wait: Duration) -> Result<Option<T>> {
        let request = self.request(Method::GET, path).timeout(wait + CALL);
        let response = self.send(request).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        self.read(response).await.map(Some)
    }

    /// POST.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let response = self
            .send(self.request(Method::POST, path).json(body))
            .await?;
        self.read(response).await
    }

    /// POST of what is JSON already.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn post_json<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T> {
        let request = self.request(Method::POST, path);
        let request = request.header("content-type", "application/json");
        let response = self.send(request.body(body)).await?;
        self.read(response).await
    }

    /// POST under an idempotency key: repeated with the same key, it is done once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn post_once<T: DeserializeOwned>(
        &self,
        path: &str,
        key: Option<&str>,
        body: &impl Serialize,
    ) -> Result<T> {
        let mut request = self.request(Method::POST, path).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let response = self.send(request).await?;
        self.read(response).await
    }

    /// POST whose answer does not matter.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn tell(&self, path: &str, body: &impl Serialize) -> Result<()> {
        self.send(self.request(Method::POST, path).json(body))
            .await
            .map(drop)
    }

    /// PATCH of the version that `tag` names.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        tag: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.change(Method::PATCH, path, tag, body).await
    }

    /// POST that changes the version that `tag` names.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn post_tagged<T: DeserializeOwned>(
        &self,
        path: &str,
        tag: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        self.change(Method::POST, path, tag, body).await
    }

    async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        tag: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let request = self.request(method, path).header("if-match", tag);
        let response = self.send(request.json(body)).await?;
        self.read(response).await
    }

    /// DELETE of the version that `tag` names.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn delete(&self, path: &str, tag: &str) -> Result<()> {
        let request = self.request(Method::DELETE, path).header("if-match", tag);
        self.send(request).await.map(drop)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let again = request.try_clone();
        let mut response = self.once(request).await?;
        // The key was rotated meanwhile: the old one is over, and its file has the new one.
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(again) = again
            && self.refresh()
        {
            response = self.once(again).await?;
        }
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| backoff::retry_after(value.to_str().ok()?));
        // Of a later version, a problem may name a reason that is not known here.
        let is_problem = is_problem(&response);
        let body = self.body(response).await.unwrap_or_default();
        let problem = serde_json::from_slice::<Problem>(&body);
        if status.is_server_error() {
            if problem.is_err() && !is_problem {
                let silence = Silence::InFront {
                    status,
                    retry_after,
                };
                return Err(CallError::Unreachable(self.base.clone(), silence).into());
            }
            self.answers.notify_waiters();
        }
        let (code, detail, next) = match problem {
            Ok(problem) => (problem.code.to_string(), problem.detail, problem.next),
            Err(_) => (format!("HTTP {status}"), String::new(), String::new()),
        };
        Err(CallError::Refused {
            status,
            code,
            detail,
            next,
            retry_after,
        }
        .into())
    }

    /// Sends it once, with the credential.
    async fn once(&self, request: RequestBuilder) -> Result<Response, CallError> {
        // The error's own text has the address, which has no secret, and is shown by `source`.
        let sent = request.bearer_auth(self.key()).send().await;
        // Whose an error of the server's is, its body says.
        if sent
            .as_ref()
            .is_ok_and(|answer| !answer.status().is_server_error())
        {
            self.answers.notify_waiters();
        }
        sent.map_err(|error| self.nobody(error))
    }

    /// Waits before the next try after this error. Where nobody answered it ends early when another
    /// call got an answer: after an outage a node is back when the first of its tasks is, not the last.
    pub async fn rest(&self, wait: Duration, error: Option<&CallError>) {
        let Some(error @ CallError::Unreachable(..)) = error else {
            return tokio::time::sleep(wait).await;
        };
        // Where one kind of call fails for ever, the others' answers must not make it a busy loop.
        let least = wait.min(error.retry_after().unwrap_or_default().max(LEAST_REST));
        tokio::time::sleep(least).await;
        let _ = tokio::time::timeout(wait - least, self.answers.notified()).await;
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        let body = self.body(response).await?;
        serde_json::from_slice(&body)
            .map_err(|error| CallError::Unreadable(self.base.clone(), error.into()).into())
    }

    async fn body(&self, response: Response) -> Result<Vec<u8>, CallError> {
        let body = body::whole(response, MAX_BODY).await;
        body.map_err(|error| match error {
            BodyError::Broken(error) => self.nobody(error),
            too_long => CallError::Unreadable(self.base.clone(), too_long.into()),
        })
    }

    fn nobody(&self, error: reqwest::Error) -> CallError {
        CallError::Unreachable(self.base.clone(), error.into())
    }
}

/// Whether its body is said to be a [`Problem`].
fn is_problem(response: &Response) -> bool {
    let kind = response.headers().get("content-type");
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"))
}

/// Its `date`, seconds since the epoch.
fn date(response: &Response) -> Option<i64> {
    let date = response.headers().get("date")?.to_str().ok()?;
    let at = httpdate::parse_http_date(date).ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}
