//! The accept loop: warp 0.4 has none that caps connections, bounds headers in time and ends
//! gracefully.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use ipnet::IpNet;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use warp::filters::BoxedFilter;
use warp::http::header::{ALLOW, HeaderValue};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::incoming::Origin;
use super::problem::ApiError;
use super::seats::Seats;
use super::sources::source;
use super::{Api, allow, forwarded, routes};
use crate::app::App;
use crate::keys::random_hex;

/// How long a request's headers may take, and how long an idle connection is kept.
const HEADER_TIME: Duration = Duration::from_secs(15);
/// How long a peer may leave what we send unread, or unacknowledged.
const UNREAD_TIME: Duration = Duration::from_secs(30);
/// A connection's buffers, bytes; headers must fit.
const BUFFER: usize = 32 * 1024;
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
        let api = Arc::new(Api::new(Arc::clone(&app)));
        let routes = routes(&api);
        let permits = Arc::new(Semaphore::new(app.config.max_connections as usize));
        let seats = Seats::new(app.config.connections_per_address as usize);
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
                    // A trusted proxy brings many clients.
                    let proxied = forwarded::is_trusted(peer.ip(), &app.config.trusted_proxies);
                    let seat = seats.take(source(peer.ip()));
                    if seat.is_none() && !proxied {
                        tracing::debug!(%peer, "refused: too many connections of one address");
                        continue;
                    }
                    let (routes, watcher) = (routes.clone(), graceful.watcher());
                    let app = Arc::clone(&app);
                    tokio::spawn(async move {
                        serve(stream, peer, routes, watcher, &app.config.trusted_proxies).await;
                        drop((permit, seat));
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
    proxies: &[IpNet],
) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%peer, %error, "connection ended before it began");
        return;
    }
    let proxies = proxies.to_vec();
    let warp = TowerToHyperService::new(warp::service(routes));
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let origin = Origin {
            client: forwarded::client(peer.ip(), request.headers(), &proxies),
            request_id: random_hex::<8>(),
        };
        let line = (
            request.method().clone(),
            request.uri().path().to_owned(),
            Instant::now(),
        );
        request.extensions_mut().insert(origin.clone());
        // Answered like GET; hyper, which remembers what was asked, leaves out the body.
        if request.method() == Method::HEAD {
            *request.method_mut() = Method::GET;
        }
        let answer = warp.call(request);
        async move { Ok::<_, Infallible>(finish(answer.await, &origin, line)) }
    });
    // HTTP/1 alone: its header timer runs from the first moment, also where nothing is sent.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = watcher.watch(connection).await {
        // What a client did to its connection is its business.
        tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection ended");
    }
}

/// Sets a connection's options.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    // A revocation's push must not wait for the peer's delayed acknowledgement.
    stream.set_nodelay(true)?;
    let ms = u32::try_from(UNREAD_TIME.as_millis()).unwrap_or(u32::MAX);
    Ok(setsockopt(stream, sockopt::TcpUserTimeout, &ms)?)
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
        path = path.as_str(),
        status = response.status().as_u16(),
        reason,
        took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        client = %origin.client,
        request_id = id,
        "request"
    );
    let allow = (response.status() == StatusCode::METHOD_NOT_ALLOWED)
        .then(|| allow::methods(&path))
        .flatten();
    if let Some(error) = error {
        response = error.write(id);
    }
    if let Some(methods) = allow {
        let methods = HeaderValue::from_static(methods);
        response.headers_mut().insert(ALLOW, methods);
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;

    #[tokio::test]
    async fn who_reads_nothing_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        tune(&stream).unwrap();
        let timeout = getsockopt(&stream, sockopt::TcpUserTimeout).unwrap();
        assert_eq!(timeout, 30_000);
        assert!(stream.nodelay().unwrap());
    }
}
