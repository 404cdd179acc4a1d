//! What is where frps would be: its port, and its admin API with the bench's own leases as proxies. It is a
//! process of its own: the ends of all connections are more descriptors than one process may have, and its
//! processor time is not the daemon's.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::daemons::{Daemon, FRPS, serving};

/// Its admin API, where the daemon looks for it.
const ADMIN: u16 = 7500;
/// How often it was asked for all of its UDP proxies, which is the end of a look at it.
const LOOKS: &str = "/looks";

/// A proxy, as frps has it.
pub(crate) struct Proxy<'a> {
    pub(crate) name: &'a str,
    pub(crate) user: &'a str,
    pub(crate) run_id: &'a str,
    pub(crate) port: usize,
}

/// The admin API's process.
pub(crate) struct Admin {
    _child: Daemon,
}

impl Admin {
    /// One with these proxies, of TCP and of UDP; `dir` is for its answers.
    pub(crate) fn start(dir: &Path, pool: &str, proxies: [Vec<Proxy<'_>>; 2]) -> Admin {
        let counts: Vec<String> = KINDS
            .iter()
            .zip(&proxies)
            .map(|(kind, all)| format!(r#""{kind}":{}"#, all.len()))
            .collect();
        let info = format!(
            r#"{{"version":"0.70.1","bindPort":{FRPS},"vhostHTTPPort":0,"vhostHTTPSPort":0,"tcpmuxHTTPConnectPort":0,"kcpBindPort":0,"quicBindPort":0,"subdomainHost":"","maxPoolCount":5,"maxPortsPerClient":0,"heartbeatTimeout":-1,"allowPortsStr":"{pool}","totalTrafficIn":0,"totalTrafficOut":0,"curConns":0,"clientCounts":1,"proxyTypeCount":{{{}}}}}"#,
            counts.join(",")
        );
        fs::write(dir.join("serverinfo"), info).unwrap();
        for (kind, mut all) in KINDS.into_iter().zip(proxies) {
            all.sort_by_key(|proxy| proxy.name);
            fs::write(dir.join(kind), rendered(kind, &all)).unwrap();
        }
        let (child, _) = serving(&["--serve-admin", dir.to_str().unwrap()]);
        Admin { _child: child }
    }

    /// How often the daemon has looked at all proxies.
    pub(crate) fn looks(&self) -> usize {
        let at = format!("http://127.0.0.1:{ADMIN}{LOOKS}");
        // A thread without a runtime: the client blocks.
        let ask = || reqwest::blocking::get(at).unwrap().text().unwrap();
        let text = std::thread::scope(|scope| scope.spawn(ask).join().unwrap());
        text.parse().unwrap()
    }
}

/// The kinds of proxies that a node lends.
pub(crate) const KINDS: [&str; 2] = ["tcp", "udp"];

/// All proxies of a kind as frps 0.70.1 answers, to the byte.
fn rendered(kind: &str, proxies: &[Proxy<'_>]) -> String {
    let mut text = r#"{"proxies":["#.to_owned();
    for (number, proxy) in proxies.iter().enumerate() {
        let Proxy {
            name,
            user,
            run_id,
            port,
        } = proxy;
        let comma = if number == 0 { "" } else { "," };
        write!(
            text,
            r#"{comma}{{"name":"{name}","conf":{{"name":"{name}","type":"{kind}","transport":{{"bandwidthLimit":"","bandwidthLimitMode":"client"}},"loadBalancer":{{"group":""}},"healthCheck":{{"type":"","intervalSeconds":0}},"localIP":"127.0.0.1","plugin":null,"remotePort":{port}}},"user":"{user}","clientID":"{run_id}","todayTrafficIn":0,"todayTrafficOut":0,"curConns":0,"lastStartTime":"11-30 13:33:04","lastCloseTime":"","status":"online"}}"#
        )
        .unwrap();
    }
    text.push_str("]}");
    text
}

/// Listens where frps would, and holds every connection; how this program starts itself.
pub(crate) async fn serve_frps() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, FRPS))
        .await
        .unwrap();
    println!("ready");
    let mut held = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        held.push(stream);
    }
}

/// Answers as frps's admin API does, from files; how this program starts itself.
pub(crate) async fn serve_admin(dir: &Path) {
    let read = |name: &str| Bytes::from(fs::read(dir.join(name)).unwrap());
    let answers = Arc::new(["serverinfo", KINDS[0], KINDS[1]].map(read));
    let looks = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, ADMIN))
        .await
        .unwrap();
    println!("ready");
    while let Ok((stream, _)) = listener.accept().await {
        let (answers, looks) = (Arc::clone(&answers), Arc::clone(&looks));
        let handle = move |request: Request<Incoming>| {
            let body = match request.uri().path() {
                "/api/serverinfo" => answers[0].clone(),
                "/api/proxy/tcp" => answers[1].clone(),
                "/api/proxy/udp" => {
                    looks.fetch_add(1, Ordering::Relaxed);
                    answers[2].clone()
                }
                LOOKS => Bytes::from(looks.load(Ordering::Relaxed).to_string()),
                other => panic!("nothing is at {other}"),
            };
            // Of no known length, so it goes as one chunk: as Go's server sends it.
            let frame = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(body))]);
            let mut response = Response::new(StreamBody::new(frame));
            let json = hyper::header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
            async move { Ok::<_, Infallible>(response) }
        };
        tokio::spawn(async move {
            let service = hyper::service::service_fn(handle);
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
