//! What a plugin for `NewUserConn` costs at the least: a bare hyper server beside frps, which reads the body
//! and answers the same bytes to everyone.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use totoro_tests::lab::Netns;

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
    ended: watch::Sender<()>,
    thread: Option<std::thread::JoinHandle<()>>,
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
        let (its, (ended, end)) = (Arc::clone(&denies), watch::channel(()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("a runtime")?;
        let thread = std::thread::Builder::new()
            .name("plugin".to_owned())
            .spawn(move || runtime.block_on(serve(listener, its, end)))
            .context("a thread")?;
        Ok(Plugin {
            denies,
            ended,
            thread: Some(thread),
        })
    }

    /// Whether it denies from here on.
    pub(super) fn deny(&self, yes: bool) {
        self.denies.store(yes, Ordering::SeqCst);
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.ended.send_replace(());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    denies: Arc<AtomicBool>,
    mut end: watch::Receiver<()>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let stream = tokio::select! {
            _ = end.changed() => return,
            Ok((stream, _)) = listener.accept() => stream,
        };
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
