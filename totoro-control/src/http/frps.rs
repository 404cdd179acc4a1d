//! frps's plugin protocol, for a stock frps without our daemon: `POST /frps/auth/handshake` and
//! `POST /frps/auth/proxy`, as `addr = "https://NODE:KEY@control"` has frps ask.
//!
//! Whatever is wrong with a request is answered as a refusal with a reason, because frpc prints that;
//! only a wrong key, which is no frps of ours, gets a 401.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use totoro_api::wire::plugin::Answer as Said;
use warp::Filter as _;
use warp::reply::Response;

use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, plain};
use super::{Answer, Api, reply};
use crate::app::callback::{Door, Frps};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    let door = |path: &'static str, door: Door| {
        let filter = warp::path("frps")
            .and(warp::path("auth"))
            .and(warp::path(path))
            .and(warp::path::end())
            .and(warp::post())
            .boxed();
        plain(api, filter, move |api, incoming| ask(api, incoming, door))
    };
    any_of([
        door("handshake", Door::Handshake),
        door("proxy", Door::Proxy),
    ])
}

async fn ask(api: Arc<Api>, mut incoming: Incoming, door: Door) -> Answer {
    let (user, key) = basic(&incoming).unwrap_or_default();
    let node = api
        .app
        .node_of_frps(&user, &key, incoming.address(), incoming.request_id());
    let frps: Frps = node.map_err(|failure| api.wrong_key(&incoming, failure))?;
    let op = match incoming.query() {
        Ok(mut query) => query.take("op").unwrap_or_default(),
        Err(error) => return Ok(told(&Said::refuse(&error.refusal))),
    };
    let answer = match incoming.bytes(BODY_LIMIT).await {
        Ok(body) => api.app.frps_asks(&frps, door, &op, &body).await,
        Err(error) => Said::refuse(&error.refusal),
    };
    Ok(told(&answer))
}

/// The answer in frps's form, with the reason of a refusal for the figures.
fn told(answer: &Said) -> Response {
    let mut response = reply::ok(answer);
    if let Some(reason) = answer.reason {
        response.extensions_mut().insert(reason);
    }
    response
}

/// The two halves of a Basic credential.
fn basic(incoming: &Incoming) -> Option<(String, String)> {
    let decoded = STANDARD.decode(incoming.authorization("basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, key) = text.split_once(':')?;
    Some((user.to_owned(), key.to_owned()))
}
