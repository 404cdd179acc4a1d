//! `GET /metrics`, on a unix socket that is root's alone, and on loopback where the settings say so.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::Sources;
use crate::local;

/// Scrapes at once.
const AT_ONCE: usize = 8;
/// A scrape is over by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// The format's media type.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens at `socket`, and at `listen`, and answers for ever.
///
/// # Errors
/// A socket can't be made.
pub fn serve(sources: &Arc<Sources>, socket: &Path, listen: Option<SocketAddr>) -> Result<()> {
    let unix = local::bind(socket)?;
    let tcp = listen.map(|at| {
        let bound = std::net::TcpListener::bind(at).and_then(|bound| {
            bound.set_nonblocking(true)?;
            TcpListener::from_std(bound)
        });
        bound.with_context(|| format!("listen on {at} (metrics_listen)"))
    });
    let tcp = tcp.transpose()?;
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    tokio::spawn(accept(
        Arc::clone(sources),
        Arc::clone(&slots),
        async move || unix.accept().await.map(|(stream, _)| stream),
    ));
    if let Some(tcp) = tcp {
        tokio::spawn(accept(Arc::clone(sources), slots, async move || {
            tcp.accept().await.map(|(stream, _)| stream)
        }));
    }
    Ok(())
}

async fn accept<S>(
    sources: Arc<Sources>,
    slots: Arc<Semaphore>,
    next: impl AsyncFn() -> std::io::Result<S>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let Ok(stream) = next().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let sources = Arc::clone(&sources);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&sources), request));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(PATIENCE, served).await;
            drop(slot);
        });
    }
}

async fn answer(
    sources: Arc<Sources>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    if request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(response);
    }
    // It reads maps and the disk.
    match tokio::task::spawn_blocking(move || sources.text()).await {
        Ok(Ok(text)) => {
            let kind = HeaderValue::from_static(OPENMETRICS);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            *response.body_mut() = Full::from(text);
        }
        Ok(Err(error)) => {
            tracing::warn!(error = format!("{error:#}"), "no figures");
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
    }
    Ok(response)
}
