//! One connection: TLS where there is a certificate, then HTTP/1 within limits.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use totoro_api::Reason;
use warp::http::Method;
use warp::http::header::HeaderValue;
use warp::reply::Response;

use super::forwarded;
use super::incoming::Origin;
use super::problem::ApiError;
use super::route::Routes;
use super::tls::Tls;
use crate::app::App;

/// How long a request's headers may take, and how long an idle connection is kept, at least.
const HEADER_TIME: Duration = Duration::from_secs(15);
/// How much longer than from one heartbeat to the next: a connection, and a handshake, less for each.
const BEAT_SLACK: Duration = Duration::from_secs(5);
/// How long a peer may leave what we send unread, or unacknowledged.
const UNREAD_TIME: Duration = Duration::from_secs(30);
/// A connection's buffers, bytes; headers must fit.
const BUFFER: usize = 32 * 1024;

/// What the system takes of us before the peer has taken it, bytes: what waits there costs memory
/// for each slow reader, up to 4 MiB by default, and grows stale.
const UNSENT: u32 = 64 * 1024;

/// One connection, whose peer may be a proxy that is trusted.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    routes: Routes,
    watcher: Watcher,
    app: Arc<App>,
) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%peer, %error, "connection ended before it began");
        return;
    }
    match tls {
        None => speak(stream, peer, routes, watcher, app).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => speak(stream, peer, routes, watcher, app).await,
            Err(error) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        },
    }
}

/// HTTP over what the peer is connected by.
async fn speak<S>(stream: S, peer: SocketAddr, routes: Routes, watcher: Watcher, app: Arc<App>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let idle = HEADER_TIME.max(app.config.heartbeat_interval.0 + BEAT_SLACK);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let origin = Arc::new(Origin {
            client: forwarded::client(peer.ip(), request.headers(), &app.config.trusted_proxies),
            // Tells requests apart, and guards nothing: the system need not be asked for each.
            request_id: hex::encode(fastrand::u64(..).to_be_bytes()),
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: std::mem::take(request.headers_mut()),
        });
        let began = Instant::now();
        let warp = TowerToHyperService::new(warp::service(routes.of(origin.uri.path())));
        request.extensions_mut().insert(Arc::clone(&origin));
        // Answered like GET; hyper, which remembers what was asked, leaves out the body.
        if request.method() == Method::HEAD {
            *request.method_mut() = Method::GET;
        }
        let (answer, app) = (warp.call(request), Arc::clone(&app));
        async move { Ok::<_, Infallible>(finish(answer.await, &origin, began, &app)) }
    });
    // HTTP/1 alone: its header timer runs from the first moment, also where nothing is sent.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
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
    let socket = SockRef::from(stream);
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.set_tcp_user_timeout(Some(UNREAD_TIME))
}

/// Writes the body of an error, stamps the request id and leaves a line in the log: the path only,
/// since a query may hold what the log must not.
fn finish(
    answer: Result<Response, Infallible>,
    origin: &Origin,
    began: Instant,
    app: &App,
) -> Response {
    let Ok(mut response) = answer;
    let error = response.extensions_mut().remove::<ApiError>();
    // An answer in another protocol's form carries the reason alone.
    let told = response.extensions_mut().remove::<Reason>();
    let reason = error.as_ref().map(|error| error.refusal.reason).or(told);
    let (status, took) = (response.status().as_u16(), began.elapsed());
    let path = origin.uri.path();
    app.metrics.answered(path, status, reason, took);
    let id = origin.request_id.as_str();
    tracing::debug!(
        method = %origin.method,
        path,
        status,
        reason = reason.map_or("", Reason::code),
        took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        client = %origin.client,
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn who_reads_nothing_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        tune(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNREAD_TIME));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT);
        assert!(stream.nodelay().unwrap());
    }
}
