//! The baseline: a bare warp server whose handlers parse the same body, do the call's one signature
//! on a ticket that no other has, and answer. No store, no audit, no limits, no log.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use totoro_api::limits::Limits;
use totoro_api::ticket::{Claims, Grant, Revision, SigningKey, sign, verify};
use totoro_api::wire::node::Heartbeat;
use totoro_api::wire::plugin;
use totoro_api::wire::push::TicketKey;
use warp::Filter as _;

/// The bare server in a process of its own, ended when dropped.
pub(crate) struct Bare {
    child: Child,
    pub(crate) address: String,
}

impl Bare {
    /// One that verifies with these keys, which are JSON.
    pub(crate) fn start(keys: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--serve-bare", keys])
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

/// Serves until killed.
pub(crate) async fn serve(keys: &str) {
    let keys: Arc<Vec<TicketKey>> = Arc::new(serde_json::from_str(keys).unwrap());
    let key = Arc::new(SigningKey::generate().unwrap());
    let with_key = warp::any().map(move || Arc::clone(&key));
    let body = || warp::post().and(warp::body::bytes());
    let token = warp::path!("api" / "v1" / "oauth" / "token")
        .and(body())
        .and(with_key.clone())
        .then(|body: Bytes, key: Arc<SigningKey>| async move {
            let fields = form_urlencoded::parse(&body);
            let secret = fields
                .into_owned()
                .find(|(name, _)| name == "client_secret");
            let ticket = ticket(&key, &secret.unwrap().1);
            let answer =
                json!({ "access_token": ticket, "token_type": "Bearer", "expires_in": 3600 });
            Ok::<_, Infallible>(warp::reply::json(&answer))
        })
        .boxed();
    let resolve = warp::path!("api" / "v1" / "invites" / "resolve")
        .and(body())
        .and(with_key)
        .then(|body: Bytes, key: Arc<SigningKey>| async move {
            let Code { code } = serde_json::from_slice(&body).unwrap();
            Ok::<_, Infallible>(warp::reply::json(&json!({ "ticket": ticket(&key, &code) })))
        })
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
        .then(|body: Bytes, keys: Arc<Vec<TicketKey>>| async move {
            let asked: plugin::Request = serde_json::from_slice(&body).unwrap();
            let login = plugin::Login::deserialize(&asked.content).unwrap();
            let footer = login.privilege_key.rsplit('.').next().unwrap();
            let footer = URL_SAFE_NO_PAD.decode(footer).unwrap();
            let footer: Footer = serde_json::from_slice(&footer).unwrap();
            verify(&login.privilege_key, &footer.node, &keys, 0).unwrap();
            Ok::<_, Infallible>(warp::reply::json(&plugin::Answer::allow_with(
                asked.content,
            )))
        })
        .boxed();
    let proxy = warp::path!("api" / "v1" / "frps" / "auth" / "proxy")
        .and(body())
        .then(|body: Bytes| async move {
            let asked: plugin::Request = serde_json::from_slice(&body).unwrap();
            match &*asked.op {
                "NewProxy" => drop(plugin::NewProxy::deserialize(&asked.content).unwrap()),
                "CloseProxy" => drop(plugin::CloseProxy::deserialize(&asked.content).unwrap()),
                _ => drop(plugin::NewUserConn::deserialize(&asked.content).unwrap()),
            }
            Ok::<_, Infallible>(warp::reply::json(&plugin::Answer::allow()))
        })
        .boxed();
    let routes = token.or(resolve).unify().or(heartbeat).unify();
    let routes = routes.or(handshake).unify().or(proxy).unify().boxed();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    warp::serve(routes).incoming(listener).run().await;
}

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
