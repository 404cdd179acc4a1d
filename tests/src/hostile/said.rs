//! What frps says to the node's plugin, said by somebody else on the node who has got hold of its secret.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use totoro_api::decide::LOGIN_META;

use super::handmade::HandMade;
use crate::lab::Place;
use crate::story::{Tenant, World};

/// Where frps reaches the node.
pub(super) const PLUGIN: &str = "127.0.0.1:988";

/// A session that was opened so: frps does not know of it.
#[derive(Debug)]
pub(super) struct Said {
    user: String,
    run_id: String,
    nonce: String,
}

impl Said {
    /// Says the Login of a client whose connection to frps there is, with a ticket of its own.
    pub(super) fn login(world: &World, from: &HandMade, of: &Tenant, run_id: &str) -> Result<Said> {
        let ticket = world.resolve(&of.code)?.ticket;
        let body = login(from, &of.invite.id, &ticket, run_id);
        Said::by(&of.invite.id, &ask(world, "Login", &body)?)
    }

    /// By what a Login was answered.
    pub(super) fn by(user: &str, answer: &Value) -> Result<Said> {
        ensure!(answer["reject"] == false, "{answer}");
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let content = &answer["content"];
        let (run_id, nonce) = (
            word(&content["run_id"]),
            word(&content["metas"][LOGIN_META]),
        );
        ensure!(!run_id.is_empty() && !nonce.is_empty(), "{answer}");
        Ok(Said {
            user: user.to_owned(),
            run_id,
            nonce,
        })
    }

    pub(super) fn run_id(&self) -> &str {
        &self.run_id
    }

    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }

    /// A request about a proxy of the session's; later parts of its content go over earlier ones.
    pub(super) fn about(&self, op: &str, parts: &[Value]) -> Vec<u8> {
        let metas = json!({ LOGIN_META: self.nonce });
        let user = json!({ "user": self.user, "run_id": self.run_id, "metas": metas });
        let mut content = Map::from_iter([("user".to_owned(), user)]);
        for part in parts.iter().filter_map(Value::as_object) {
            content.extend(part.clone());
        }
        whole(op, content.into())
    }
}

/// The Login of a client whose connection to frps there is.
pub(super) fn login(from: &HandMade, user: &str, ticket: &str, run_id: &str) -> Vec<u8> {
    let content = json!({
        "version": "0.70.1", "user": user, "privilege_key": ticket, "timestamp": 1, "pool_count": 1,
        "run_id": run_id, "client_address": from.address().to_string(),
    });
    whole("Login", content)
}

fn whole(op: &str, content: Value) -> Vec<u8> {
    json!({ "version": "0.1.0", "op": op, "content": content })
        .to_string()
        .into()
}

/// A connection to the plugin.
pub(super) fn connect(world: &World) -> Result<TcpStream> {
    world.lab.ns(Place::Node).run(|| {
        let stream = TcpStream::connect(PLUGIN).context("connect to the plugin")?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    })
}

/// One request with frps's own secret.
pub(super) fn ask(world: &World, op: &str, body: &[u8]) -> Result<Value> {
    let secret = std::fs::read_to_string(world.lab.file("node/plugin.secret"))?;
    let auth = STANDARD.encode(format!("totoro:{}", secret.trim()));
    let mut stream = connect(world)?;
    let head = format!(
        "POST /frps?op={op}&version=0.1.0 HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {auth}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    serde_json::from_str(body).with_context(|| format!("read {body:.100}"))
}
