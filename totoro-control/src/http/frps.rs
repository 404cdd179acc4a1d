//! frps's plugin protocol, for a stock frps without our daemon: `POST /frps/auth/handshake` and
//! `POST /frps/auth/proxy`, as `addr = "https://NODE:KEY@control"` has frps ask.
//!
//! Whatever is wrong with a request is answered as a refusal with a reason, because frpc prints that;
//! only a wrong key, which is no frps of ours, gets a 401.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use totoro_api::wire::plugin::Answer as Said;
use utoipa::openapi::{ContentBuilder, schema::empty};
use warp::reply::Response;

use super::about::{About, Who, string};
use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, at, plain};
use super::{Answer, Api, reply};
use crate::app::callback::{Door, Frps};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    let handshake = at!(post, "frps" / "auth" / "handshake");
    let proxy = at!(post, "frps" / "auth" / "proxy");
    any_of([
        plain(
            api,
            handshake,
            asking(
                "frps asks: Login, Ping, NewWorkConn",
                &["Login", "Ping", "NewWorkConn"],
            ),
            |api, incoming| ask(api, incoming, Door::Handshake),
        ),
        plain(
            api,
            proxy,
            asking(
                "frps asks: NewProxy, CloseProxy, NewUserConn",
                &["NewProxy", "CloseProxy", "NewUserConn"],
            ),
            |api, incoming| ask(api, incoming, Door::Proxy),
        ),
    ])
}

fn asking(summary: &'static str, ops: &[&'static str]) -> About {
    // Whatever comes is answered: its form is frps's, and what is wrong with it is a refusal.
    let content = ContentBuilder::new().schema(Some(empty())).example(Some(
        serde_json::json!({ "version": "0.1.0", "op": ops[0], "content": {} }),
    ));
    let op = string().examples(ops.iter().copied());
    let mut about = About::new(Who::Frps, summary)
        .says("frp's HTTP plugin protocol, for a stock frps without our daemon. Answered 200 also where \
               it refuses, or cannot read what came: `reject_reason` is what frpc prints.")
        .takes("application/json", BODY_LIMIT, content)
        .query("op", "The operation, as in the body.", op)
        .query("version", "The protocol's version.", string())
        .answer::<Said>(200, "Allowed, or refused.");
    about.refusals.clear();
    about
}

async fn ask(api: Arc<Api>, mut incoming: Incoming, door: Door) -> Answer {
    let shown = basic(&incoming).unwrap_or_default();
    let (user, key) = shown.split_once(':').unwrap_or_default();
    let node = api.app.node_of_frps(user, key);
    let node = node.map_err(|failure| api.wrong_key(&incoming, failure))?;
    let op = match incoming.query() {
        Ok(mut query) => query.take("op").unwrap_or_default(),
        Err(error) => return Ok(told(&Said::refuse(&error.refusal))),
    };
    let answer = match incoming.bytes(BODY_LIMIT).await {
        Ok(body) => {
            let frps = Frps {
                node,
                address: incoming.address(),
                request_id: incoming.request_id(),
            };
            api.app.frps_asks(&frps, door, &op, &body).await
        }
        Err(error) => Said::refuse(&error.refusal),
    };
    Ok(told(&answer))
}

/// The answer in frps's form, with the reason of a refusal for the figures.
fn told(answer: &Said) -> Response {
    if *answer == Said::allow() {
        return reply::ok_text(&ALLOWED);
    }
    let mut response = reply::ok(answer);
    if let Some(reason) = answer.reason {
        response.extensions_mut().insert(reason);
    }
    response
}

/// What most answers are.
static ALLOWED: LazyLock<Bytes> = LazyLock::new(|| {
    let text = serde_json::to_vec(&Said::allow());
    Bytes::from(text.expect("an answer is a struct with text keys"))
});

/// A Basic credential: both halves, with a colon in between.
fn basic(incoming: &Incoming) -> Option<String> {
    let decoded = STANDARD.decode(incoming.authorization("basic")?).ok()?;
    String::from_utf8(decoded).ok()
}
