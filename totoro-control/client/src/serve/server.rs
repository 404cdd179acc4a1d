//! Connections, as many as a person's browser and programs need.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::Peer;

/// The most connections at once; more wait.
const MOST: usize = 128;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(15);
/// The largest head, bytes.
const BUFFER: usize = 32 << 10;
/// The rest after a failed accept: descriptors may have run out.
const REST: Duration = Duration::from_millis(100);

/// Serves everyone who comes, for ever.
pub(super) async fn accept(listener: TcpListener, router: Router) {
    let seats = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else {
            return;
        };
        let Ok((stream, peer)) = listener.accept().await else {
            sleep(REST).await;
            continue;
        };
        let router = router.clone().layer(Extension(Peer(peer)));
        tokio::spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(BUFFER)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
            // What a browser does to its connection is its business.
            served.await.ok();
            drop(seat);
        });
    }
}
