//! The accept loop: warp 0.4 has none that caps connections, bounds headers in time and ends
//! gracefully.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use warp::filters::BoxedFilter;
use warp::http::header::HeaderValue;
use warp::reply::Response;

use super::incoming::Origin;
use super::problem::ApiError;
use super::rate::Limiters;
use super::{Api, routes};
use crate::app::App;
use crate::keys::random_hex;

/// How long a request's headers may take, and how long an idle connection is kept.
const HEADER_TIME: Duration = Duration::from_secs(15);
/// How long running requests get when the process is asked to end.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How long to rest when the system has no descriptors left.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// How often idle addresses are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Why it cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A bound server.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
}

impl Server {
    /// Binds the configured address.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn bind(app: Arc<App>) -> Result<Self, ServerError> {
        let address = app.config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServerError::Listen { address, source })?;
        Ok(Server { app, listener })
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the app is asked to stop; then finishes what runs, within a deadline.
    pub async fn run(self) {
        let Server { app, listener } = self;
        let limiters = Limiters::new(app.config.rate);
        let api = Arc::new(Api {
            app: Arc::clone(&app),
            limiters,
        });
        let routes = routes(&api);
        let permits = Arc::new(Semaphore::new(app.config.max_connections as usize));
        let graceful = GracefulShutdown::new();
        let mut stopping = app.stopping();
        let forgetting = tokio::spawn(forget_now_and_then(Arc::clone(&api)));
        loop {
            // The permit comes first: past the cap connections wait in the kernel's backlog.
            let next = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                _ = stopping.wait_for(|&stop| stop) => break,
            };
            match (permit, accepted) {
                (Ok(permit), Ok((stream, peer))) => {
                    let (routes, watcher) = (routes.clone(), graceful.watcher());
                    tokio::spawn(async move {
                        serve(stream, peer, routes, watcher).await;
                        drop(permit);
                    });
                }
                (_, Err(error)) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
                (Err(_), _) => break,
            }
        }
        drop(listener);
        forgetting.abort();
        if tokio::time::timeout(DRAIN_TIME, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("some requests did not end in time");
        }
    }
}

async fn forget_now_and_then(api: Arc<Api>) {
    loop {
        tokio::time::sleep(FORGET).await;
        api.limiters.forget();
    }
}

/// One connection.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    routes: BoxedFilter<(Response,)>,
    watcher: Watcher,
) {
    // A revocation's push must not wait for the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let warp = TowerToHyperService::new(warp::service(routes));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let origin = Origin {
            peer,
            request_id: random_hex::<8>(),
        };
        let line = (
            request.method().clone(),
            request.uri().path().to_owned(),
            Instant::now(),
        );
        request.extensions_mut().insert(origin.clone());
        let answer = warp.call(request);
        async move { Ok::<_, Infallible>(finish(answer.await, &origin, line)) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .keep_alive_interval(HEADER_TIME)
        .keep_alive_timeout(HEADER_TIME);
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    if let Err(error) = watcher.watch(connection).await {
        // What a client did to its connection is its business.
        tracing::debug!(%peer, error = error.as_ref(), "connection ended");
    }
}

/// Writes the body of an error, stamps the request id and leaves a line in the log: the path only,
/// since a query may hold what the log must not.
fn finish(
    answer: Result<Response, Infallible>,
    origin: &Origin,
    (method, path, began): (hyper::Method, String, Instant),
) -> Response {
    let Ok(mut response) = answer;
    let error = response.extensions_mut().remove::<ApiError>();
    let reason = error
        .as_ref()
        .map_or("", |error| error.refusal.reason.code());
    let id = origin.request_id.as_str();
    tracing::debug!(
        %method,
        path,
        status = response.status().as_u16(),
        reason,
        took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        client = %origin.peer.ip(),
        request_id = id,
        "request"
    );
    if let Some(error) = error {
        response = error.write(id);
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}
