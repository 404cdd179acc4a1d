//! The baseline: a bare hyper server whose handlers parse the same body; a Login verifies its ticket, which
//! no other has; then each waits for a group commit of a few hundred bytes (one write and one fdatasync for
//! all that wait), and answers. No policy, no limits, no maps, no events, no log.

use std::convert::Infallible;
use std::io::{Seek as _, Write as _};
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use totoro_api::ticket::{Keys, verify};
use totoro_api::wire::plugin;

use crate::daemons::{Daemon, serving};

/// The bare server in a process of its own.
pub(crate) struct Bare {
    _child: Daemon,
    pub(crate) address: String,
}

impl Bare {
    /// One that verifies with these keys, which are JSON.
    pub(crate) fn start(keys: &str) -> Bare {
        let (child, address) = serving(&["--serve-bare", keys]);
        Bare {
            _child: child,
            address,
        }
    }
}

/// Bytes of its file, which are there before they are written to, as our log has room ahead: else each sync
/// would write the file system's journal too. It is written around.
const ROOM: usize = 64 << 20;

/// Writers that wait for the next sync.
#[derive(Clone)]
struct Log(mpsc::UnboundedSender<(Vec<u8>, oneshot::Sender<()>)>);

impl Log {
    fn open() -> Log {
        let (send, mut receive) = mpsc::unbounded_channel::<(Vec<u8>, oneshot::Sender<()>)>();
        let dir = std::env::current_exe().unwrap();
        let mut file = tempfile::tempfile_in(dir.parent().unwrap()).unwrap();
        file.write_all(&vec![0; ROOM]).unwrap();
        file.sync_all().unwrap();
        std::thread::spawn(move || {
            let (mut batch, mut left) = (Vec::new(), 0);
            while receive.blocking_recv_many(&mut batch, 1024) > 0 {
                while let Ok(one) = receive.try_recv() {
                    batch.push(one);
                }
                let bytes: Vec<u8> = batch.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
                if bytes.len() > left {
                    file.rewind().unwrap();
                    left = ROOM;
                }
                file.write_all(&bytes).unwrap();
                left -= bytes.len();
                file.sync_data().unwrap();
                for (_, done) in batch.drain(..) {
                    let _ = done.send(());
                }
            }
        });
        Log(send)
    }

    async fn commit(&self) {
        let (done, synced) = oneshot::channel();
        self.0.send((vec![b'x'; 300], done)).unwrap();
        synced.await.unwrap();
    }
}

/// Serves until killed.
pub(crate) async fn serve(keys: &str) {
    let keys: Arc<Keys> = Arc::new(serde_json::from_str(keys).unwrap());
    let log = Log::open();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (keys, log) = (Arc::clone(&keys), log.clone());
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| {
                answer(request, Arc::clone(&keys), log.clone())
            });
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    keys: Arc<Keys>,
    log: Log,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = request.uri().query().unwrap_or_default();
    let op = query.split('&').find_map(|part| part.strip_prefix("op="));
    let op = op.unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let text = match &*op {
        "Login" => {
            // All of it goes back, with what frpc said and no type knows of.
            let content: serde_json::Value = content(&body);
            let login = plugin::Login::deserialize(&content).unwrap();
            let footer = login.privilege_key.rsplit('.').next().unwrap();
            let footer = URL_SAFE_NO_PAD.decode(footer).unwrap();
            let footer: serde_json::Value = serde_json::from_slice(&footer).unwrap();
            verify(
                &login.privilege_key,
                footer["node"].as_str().unwrap(),
                &keys,
                0,
            )
            .unwrap();
            let answer = plugin::Answer::allow_with(content);
            Bytes::from(serde_json::to_vec(&answer).unwrap())
        }
        "NewProxy" => {
            content::<plugin::NewProxy>(&body);
            Bytes::clone(&ALLOWED)
        }
        _ => {
            content::<plugin::CloseProxy>(&body);
            Bytes::clone(&ALLOWED)
        }
    };
    log.commit().await;
    let answer = Response::builder().header("content-type", "application/json");
    Ok(answer.body(Full::new(text)).unwrap())
}

/// The content of a request, which is read once, as what its operation has.
fn content<T: DeserializeOwned>(body: &[u8]) -> T {
    #[derive(Deserialize)]
    struct Asked<T> {
        content: T,
    }
    serde_json::from_slice::<Asked<T>>(body).unwrap().content
}

/// What most answers are.
static ALLOWED: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&plugin::Answer::allow()).unwrap().into());
