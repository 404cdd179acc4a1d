//! What a plugin for `NewUserConn` costs at the least: a bare hyper server beside frps, which reads the body
//! and answers the same bytes to everyone.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use totoro_tests::lab::Netns;

use crate::net::aside::Aside;

/// Its port.
const PORT: u16 = 9000;
/// Lines of frps.toml that have it asked.
pub(super) const SETTINGS: &str = "[[httpPlugins]]\nname = \"bare\"\naddr = \"127.0.0.1:9000\"\n\
     path = \"/frps\"\nops = [\"NewUserConn\"]\n";
const ALLOW: &[u8] = br#"{"reject":false,"unchange":true}"#;
const DENY: &[u8] = br#"{"reject":true,"reject_reason":"no"}"#;

/// A running plugin; it ends when this is dropped.
pub(super) struct Plugin {
    /// Whether it denies.
    denies: Arc<AtomicBool>,
    _aside: Aside,
}

impl Plugin {
    /// Starts it on a namespace's loopback.
    ///
    /// # Errors
    /// No socket or thread can be had.
    pub(super) fn start(ns: &Netns) -> Result<Plugin> {
        let listener = ns.run(|| Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?))?;
        listener.set_nonblocking(true)?;
        let denies = Arc::new(AtomicBool::new(false));
        let its = Arc::clone(&denies);
        let aside = Aside::start("plugin", move || serve(listener, its))?;
        Ok(Plugin {
            denies,
            _aside: aside,
        })
    }

    /// Whether it denies from here on.
    pub(super) fn deny(&self, yes: bool) {
        self.denies.store(yes, Ordering::SeqCst);
    }
}

async fn serve(listener: std::net::TcpListener, denies: Arc<AtomicBool>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).ok();
        let denies = Arc::clone(&denies);
        tokio::spawn(async move {
            let service =
                hyper::service::service_fn(move |request| answer(request, Arc::clone(&denies)));
            let http = hyper::server::conn::http1::Builder::new();
            http.serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
    // Whoever is connected stays so.
    std::future::pending().await
}

async fn answer(
    request: Request<Incoming>,
    denies: Arc<AtomicBool>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    request.into_body().collect().await.ok();
    let text = if denies.load(Ordering::Relaxed) {
        DENY
    } else {
        ALLOW
    };
    Ok(Response::new(Full::new(Bytes::from_static(text))))
}
