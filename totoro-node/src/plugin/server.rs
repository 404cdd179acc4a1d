//! Reading and checking requests, writing answers.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde::de::IgnoredAny;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use totoro_api::decide::unreadable;
use totoro_api::wire::plugin::{Answer, CloseProxy, Login, NewProxy};
use totoro_api::{Reason, Refusal};

use super::places::{Place, Places};
use super::{Clerk, Doors, Meter};
use crate::kernel::boot_ns;

/// The path that frps is configured with.
pub(super) const PATH: &str = "/frps";
/// The user in the userinfo of frps's `addr`.
pub(super) const USER: &str = "totoro";

/// The source of Logins that come with no address.
const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// Threads that serve. One decides at a time, but signatures are verified beside that.
const THREADS: usize = 2;

/// What the server bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. Beyond, the oldest that has not shown the secret gives way: so many that a frps
    /// which asks a lot at once has the time to show it.
    pub connections: usize,
    /// Requests at once that have shown the secret; others wait.
    pub requests: usize,
    /// The largest body, bytes.
    pub body: usize,
    /// The longest time for a connection's first headers, and for each body.
    pub read: Duration,
    /// How long a connection that has shown the secret may be idle. Longer than the 90 s after
    /// which Go's clients close theirs: a request that crosses our close is lost, for Go sends no
    /// POST again.
    pub idle: Duration,
    /// The longest time for a decision.
    pub decide: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 4096,
            requests: 256,
            body: 64 * 1024,
            read: Duration::from_secs(5),
            idle: Duration::from_secs(120),
            decide: Duration::from_secs(5),
        }
    }
}

/// The plugin endpoint.
pub struct Server<C> {
    clerk: Arc<C>,
    /// The whole header value that frps sends.
    expected: String,
    doors: Mutex<Doors>,
    limits: Limits,
    turns: Semaphore,
    /// Requests with a wrong secret.
    strangers: AtomicU64,
    meter: Meter,
}

impl<C: Clerk> Server<C> {
    /// An endpoint for frps with this secret.
    #[must_use]
    pub fn new(clerk: Arc<C>, secret: &str, limits: Limits) -> Self {
        Server {
            clerk,
            expected: format!("Basic {}", STANDARD.encode(format!("{USER}:{secret}"))),
            doors: Mutex::default(),
            limits,
            turns: Semaphore::new(limits.requests),
            strangers: AtomicU64::new(0),
            meter: Meter::default(),
        }
    }

    /// What it counts.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Serves on a socket that does not block, until `stop` completes; then lets the requests under way
    /// end. On threads of its own: decisions wait for the desk, and nothing else of the daemon is to
    /// wait with them.
    ///
    /// # Errors
    /// The threads can't be started, or the socket can't be watched.
    pub fn start(
        self,
        listener: std::net::TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<Serving> {
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("plugin")
            .enable_all()
            .build()?;
        let within = threads.enter();
        let listener = TcpListener::from_std(listener)?;
        drop(within);
        let serving = threads.spawn(self.run(listener, stop));
        Ok(Serving {
            serving,
            threads: Some(threads),
        })
    }

    async fn run(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let server = Arc::new(self);
        let mut places = Places::new(server.limits.connections);
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let held = tokio::select! {
                        Ok(held) = places.free() => held,
                        () = &mut stop => break,
                    };
                    places.serve(held, |place| Arc::clone(&server).serve(stream, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "frps's connection can't be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        // frps keeps idle connections open for ever: only requests under way are waited for.
        let grace = Duration::from_millis(500);
        let _ = tokio::time::timeout(grace, places.ended()).await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, place: Place) {
        let limits = self.limits;
        let place = Arc::new(place);
        let proves = Arc::clone(&place);
        let service = service_fn(move |request| {
            let (server, place) = (Arc::clone(&self), Arc::clone(&proves));
            async move { Ok::<_, std::convert::Infallible>(server.answer(request, &place).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        // Any local user can connect: without the secret a place is held for a moment only.
        let unproven = async {
            tokio::time::sleep(limits.read).await;
            if place.is_proven() {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            served = served => served,
            () = unproven => return tracing::debug!("a plugin connection without a request ended"),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a plugin connection ended");
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        place: &Place,
    ) -> Response<Full<Bytes>> {
        let given = request
            .headers()
            .get(AUTHORIZATION)
            .map_or(&b""[..], |value| value.as_bytes());
        if !bool::from(given.ct_eq(self.expected.as_bytes())) {
            // Any local user can ask: the log must not be theirs to fill.
            let count = self.strangers.fetch_add(1, Ordering::Relaxed) + 1;
            if count.is_power_of_two() {
                tracing::warn!(count, "plugin requests with a wrong secret");
            }
            return bare(StatusCode::UNAUTHORIZED);
        }
        if !place.prove() {
            return bare(StatusCode::SERVICE_UNAVAILABLE);
        }
        if request.uri().path() != PATH {
            return bare(StatusCode::NOT_FOUND);
        }
        if request.method() != Method::POST {
            return bare(StatusCode::METHOD_NOT_ALLOWED);
        }
        let began = Instant::now();
        let op = request.uri().query().and_then(|query| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix("op="))
                .map(str::to_owned)
        });
        let op = op.unwrap_or_default();
        let meter = self.meter.clone();
        let server = Arc::clone(&self);
        let _turn = server.turns.acquire().await;
        let answer = match self.body(request.into_body()).await {
            Ok(body) => self.decide(&op, body).await,
            Err(refusal) => Answer::refuse(&refusal),
        };
        meter.answered(&op, answer.reject, began.elapsed());
        json(&answer)
    }

    async fn body(&self, body: Incoming) -> Result<Bytes, Refusal> {
        let limited = Limited::new(body, self.limits.body);
        match tokio::time::timeout(self.limits.read, limited.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let detail = format!("more than {} bytes", self.limits.body);
                Err(Refusal::with(Reason::RequestTooLarge, detail))
            }
            Ok(Err(_)) => Err(Refusal::with(
                Reason::RequestMalformed,
                "the body ended too soon",
            )),
            Err(_) => Err(Refusal::with(
                Reason::RequestMalformed,
                "the body came too slowly",
            )),
        }
    }

    /// Reads the request and has the clerk answer it: as a task of its own, for what was asked is decided
    /// though nobody waits for the answer any more, and a thread that waits for the desk must not keep
    /// this one from giving up.
    async fn decide(self: Arc<Self>, op: &str, body: Bytes) -> Answer {
        let op = op.to_owned();
        let within = self.limits.decide;
        let deciding = tokio::spawn(async move { self.ask(&op, &body).await });
        // What is decided after all is undone once frps is seen not to have it.
        match tokio::time::timeout(within, deciding).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(%error, "a plugin request failed");
                Answer::refuse(&Refusal::new(Reason::Internal))
            }
            Err(_) => {
                tracing::error!(?within, "a decision took too long; refused");
                Answer::refuse(&Refusal::new(Reason::Internal))
            }
        }
    }

    async fn ask(&self, op: &str, body: &[u8]) -> Answer {
        let answer = match op {
            "Login" => match read(op, body) {
                Ok(content) => Ok(self.login(content).await),
                Err(refusal) => Err(refusal),
            },
            "NewProxy" => match read::<NewProxy>(op, body) {
                Ok(proxy) => Ok(self.clerk.new_proxy(&proxy, || read(op, body)).await),
                Err(refusal) => Err(refusal),
            },
            "CloseProxy" => match read::<CloseProxy>(op, body) {
                Ok(proxy) => {
                    self.clerk.close_proxy(&proxy).await;
                    Ok(Answer::allow())
                }
                Err(refusal) => Err(refusal),
            },
            _ => read::<IgnoredAny>(op, body).and_then(|_| {
                let op: String = op.chars().take(40).collect();
                let detail = format!("the operation {op:?} is not served here");
                Err(Refusal::with(Reason::Unsupported, detail))
            }),
        };
        answer.unwrap_or_else(|refusal| Answer::refuse(&refusal))
    }

    async fn login(&self, content: serde_json::Value) -> Answer {
        // frps itself writes the address, so it is there however bad the rest is. Over websocket it
        // writes the origin instead; all of those that have no stamp of ours are one source.
        let told = content["client_address"].as_str().unwrap_or_default();
        let client = match self.clerk.client(told) {
            Ok(client) => client,
            Err(refusal) => return Answer::refuse(&refusal),
        };
        let source = client.unwrap_or(NOWHERE);
        let admitted = self.doors().admit(source, boot_ns());
        let answer = if admitted {
            self.ask_login(content, client).await
        } else {
            Answer::refuse(&Refusal::new(Reason::RateLimited))
        };
        let Some(client) = client else { return answer };
        if !answer.reject {
            self.doors().succeeded(client);
            return answer;
        }
        let over = self.doors().failed(client);
        if over {
            self.clerk.drop_connection(client);
        }
        answer
    }

    async fn ask_login(&self, content: serde_json::Value, client: Option<SocketAddr>) -> Answer {
        match Login::deserialize(&content) {
            Ok(mut body) => {
                if let Some(client) = client {
                    body.client_address = client.to_string();
                }
                self.clerk.login(&body, content).await
            }
            Err(error) => Answer::refuse(&unreadable(&error)),
        }
    }

    fn doors(&self) -> std::sync::MutexGuard<'_, Doors> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that runs, and its threads.
pub struct Serving {
    serving: JoinHandle<()>,
    threads: Option<Runtime>,
}

impl Serving {
    /// Waits until it has ended.
    pub async fn ended(mut self) {
        let _ = (&mut self.serving).await;
    }
}

impl Drop for Serving {
    /// Tasks do not wait for threads: these end by themselves.
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// A request whose content is read as what its operation has (`plugin::Request` has any).
#[derive(Deserialize)]
struct Ask<'a, T> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    content: T,
}

/// The content of a request for an operation.
fn read<'a, T: Deserialize<'a>>(op: &str, body: &'a [u8]) -> Result<T, Refusal> {
    let ask: Ask<'_, T> = serde_json::from_slice(body).map_err(|error| unreadable(&error))?;
    if ask.op != op {
        let detail = "the op in the address and the op in the body differ";
        return Err(Refusal::with(Reason::RequestMalformed, detail));
    }
    Ok(ask.content)
}

fn bare(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn json(answer: &Answer) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(answer).unwrap_or_else(|_| {
        br#"{"reject":true,"reject_reason":"totoro[internal]","unchange":true}"#.to_vec()
    });
    let mut response = Response::new(Full::from(body));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
#[path = "server_tests/mod.rs"]
mod tests;
