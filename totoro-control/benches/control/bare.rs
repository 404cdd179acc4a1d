//! The baselines: a bare warp server whose handlers parse the same body, do the call's one signature
//! on a ticket that no other has, and answer. No audit, no limits, no log; and no store, or else one
//! commit of one small record to the store's own group commit before each answer.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use totoro_api::limits::Limits;
use totoro_api::ticket::{Claims, Grant, Keys, Revision, SigningKey, sign, verify};
use totoro_api::wire::invite::NewInvite;
use totoro_api::wire::node::Heartbeat;
use totoro_api::wire::plugin;
use totoro_control::store::{Commit, Op, SledStore, Store};
use warp::Filter as _;

use crate::tls;

/// The bare server in a process of its own, ended when dropped.
pub(crate) struct Bare {
    child: Child,
    pub(crate) address: String,
}

impl Bare {
    /// One that verifies with these keys, which are JSON, writes to a store in this directory, and
    /// speaks TLS with the certificate in that one.
    pub(crate) fn start(keys: &str, store: Option<&Path>, certificate: Option<&Path>) -> Self {
        let dirs = [("--store", store), ("--certificate", certificate)];
        let dirs = dirs
            .into_iter()
            .filter_map(|(name, dir)| Some([name.as_ref(), dir?.as_os_str()]));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--serve-bare", keys])
            .args(dirs.flatten())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let output = child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut address).unwrap();
        Bare {
            child,
            address: address.trim().to_owned(),
        }
    }
}

impl Bare {
    /// The process.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What says whose ticket it is.
#[derive(Deserialize)]
struct Footer {
    node: String,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

/// Where each answer waits until one small record is durable, if anywhere.
#[derive(Clone)]
struct Durable(Option<(Arc<dyn Store>, Arc<AtomicU64>)>);

impl Durable {
    async fn write(&self) {
        let Some((store, next)) = &self.0 else {
            return;
        };
        let number = next.fetch_add(1, Ordering::Relaxed);
        store.commit(record(&number)).await.unwrap();
    }
}

/// What one call's durable part is at the least: a new key of 300 bytes.
pub(crate) fn record(name: &dyn std::fmt::Display) -> Commit {
    let ops = vec![Op::Put(
        format!("bench/{name}").into_bytes(),
        vec![b'x'; 300],
    )];
    let expect = Vec::new();
    Commit { expect, ops }
}

/// Serves until killed.
pub(crate) async fn serve(keys: &str, store: Option<&Path>, certificate: Option<&Path>) {
    let store = store.map(|dir| {
        let store: Arc<dyn Store> = Arc::new(SledStore::open(dir, 64 << 20).unwrap());
        (store, Arc::default())
    });
    let durable = Durable(store);
    let durable = warp::any().map(move || durable.clone());
    let keys: Arc<Keys> = Arc::new(serde_json::from_str(keys).unwrap());
    let key = Arc::new(SigningKey::generate().unwrap());
    let with_key = warp::any().map(move || Arc::clone(&key));
    let body = || warp::post().and(warp::body::bytes());
    let token = warp::path!("api" / "v1" / "oauth" / "token")
        .and(body())
        .and(with_key.clone())
        .and(durable.clone())
        .then(
            |body: Bytes, key: Arc<SigningKey>, durable: Durable| async move {
                let fields = form_urlencoded::parse(&body);
                let secret = fields
                    .into_owned()
                    .find(|(name, _)| name == "client_secret");
                let ticket = ticket(&key, &secret.unwrap().1);
                durable.write().await;
                let answer =
                    json!({ "access_token": ticket, "token_type": "Bearer", "expires_in": 3600 });
                Ok::<_, Infallible>(warp::reply::json(&answer))
            },
        )
        .boxed();
    let resolve = warp::path!("api" / "v1" / "invites" / "resolve")
        .and(body())
        .and(with_key)
        .and(durable.clone())
        .then(
            |body: Bytes, key: Arc<SigningKey>, durable: Durable| async move {
                let Code { code } = serde_json::from_slice(&body).unwrap();
                let ticket = ticket(&key, &code);
                durable.write().await;
                Ok::<_, Infallible>(warp::reply::json(&json!({ "ticket": ticket })))
            },
        )
        .boxed();
    let creation = warp::path!("api" / "v1" / "nodes" / "invites")
        .and(body())
        .and(durable.clone())
        .then(|body: Bytes, durable: Durable| async move {
            let new: NewInvite = serde_json::from_slice(&body).unwrap();
            durable.write().await;
            let answer = warp::reply::json(&json!({ "label": new.label }));
            let created = warp::http::StatusCode::CREATED;
            Ok::<_, Infallible>(warp::reply::with_status(answer, created))
        })
        .map(|answer: Result<_, Infallible>| answer.map(warp::Reply::into_response))
        .boxed();
    let heartbeat = warp::path!("api" / "v1" / "nodes" / "heartbeat")
        .and(body())
        .then(|body: Bytes| async move {
            let heartbeat: Heartbeat = serde_json::from_slice(&body).unwrap();
            let answer = json!({ "revision": heartbeat.instance.len(), "interval_s": 10 });
            Ok::<_, Infallible>(warp::reply::json(&answer))
        })
        .boxed();
    let handshake = warp::path!("api" / "v1" / "frps" / "auth" / "handshake")
        .and(body())
        .and(warp::any().map(move || Arc::clone(&keys)))
        .and(durable.clone())
        .then(
            |body: Bytes, keys: Arc<Keys>, durable: Durable| async move {
                let asked: Asked<'_> = serde_json::from_slice(&body).unwrap();
                // All of it goes back, with what frpc said and no type knows of.
                let content: Value = serde_json::from_str(asked.content.get()).unwrap();
                let login = plugin::Login::deserialize(&content).unwrap();
                let footer = login.privilege_key.rsplit('.').next().unwrap();
                let footer = URL_SAFE_NO_PAD.decode(footer).unwrap();
                let footer: Footer = serde_json::from_slice(&footer).unwrap();
                verify(&login.privilege_key, &footer.node, &keys, 0).unwrap();
                durable.write().await;
                Ok::<_, Infallible>(warp::reply::json(&plugin::Answer::allow_with(content)))
            },
        )
        .boxed();
    let proxy = warp::path!("api" / "v1" / "frps" / "auth" / "proxy")
        .and(body())
        .and(durable)
        .then(|body: Bytes, durable: Durable| async move {
            if read(&body) != "NewUserConn" {
                durable.write().await;
            }
            let mut answer = warp::reply::Response::new(Bytes::clone(&ALLOWED).into());
            let json = warp::http::HeaderValue::from_static("application/json");
            answer
                .headers_mut()
                .insert(warp::http::header::CONTENT_TYPE, json);
            Ok::<_, Infallible>(answer)
        })
        .boxed();
    let routes = token.or(resolve).unify().or(heartbeat).unify();
    let routes = routes.or(handshake).unify();
    let routes = routes.or(creation.or(proxy).unify()).boxed();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    match certificate {
        None => {
            println!("http://{address}");
            warp::serve(routes).incoming(listener).run().await;
        }
        Some(dir) => {
            println!("https://{address}");
            tls::serve(listener, dir, routes).await;
        }
    }
}

/// A request of frps, with its content as it came.
#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow)]
    content: &'a RawValue,
}

/// Reads what a session asks for a proxy; the operation.
fn read(body: &[u8]) -> Cow<'_, str> {
    fn content<T: DeserializeOwned>(asked: &Asked<'_>) -> T {
        serde_json::from_str(asked.content.get()).unwrap()
    }
    let asked: Asked<'_> = serde_json::from_slice(body).unwrap();
    match &*asked.op {
        "NewProxy" => drop(content::<plugin::NewProxy>(&asked)),
        "CloseProxy" => drop(content::<plugin::CloseProxy>(&asked)),
        _ => drop(content::<plugin::NewUserConn>(&asked)),
    }
    asked.op
}

/// What most answers are.
static ALLOWED: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&plugin::Answer::allow()).unwrap().into());

fn ticket(key: &SigningKey, code: &str) -> String {
    let mut jti = [0; 16];
    getrandom::fill(&mut jti).unwrap();
    let claims = Claims {
        jti: jti.iter().map(|byte| format!("{byte:02x}")).collect(),
        node: "n-0123456789ab".to_owned(),
        grant: Grant::Invite(code.to_owned()),
        subject: "127.0.0.1".to_owned(),
        epoch: 0,
        limits: Limits::default(),
        revision: Revision::default(),
        iat: 0,
        exp: 3600,
        session_until: 3600,
    };
    sign(key, &claims)
}
