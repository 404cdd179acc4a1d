//! Desired state as server-sent events. An event's id is `GEN-REV`: what a node that applied it
//! stands at, and with what in `Last-Event-ID` it goes on.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::stream::unfold;
use tokio::time::Instant;
use totoro_api::wire::push::{ALIVE, DesiredState};
use warp::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use warp::reply::{Reply as _, Response};
use warp::sse::Event;

use super::reply::no_store;
use super::seats::Seat;
use crate::keys::random;
use crate::push::{Follower, Next};

/// What a client that wants a stream accepts.
pub(super) const MEDIA_TYPE: &str = "text/event-stream";

/// When to come back after the end, milliseconds: so much, and as much again by chance, so that
/// after a restart not all come at once.
const RETRY_MS: u64 = 1000;

/// One stream.
struct Stream {
    follower: Follower,
    /// The node's place among its open ones; free again when the client goes away.
    _seat: Seat<String>,
    ends: Instant,
    begun: bool,
}

/// A stream that lives for half of `life` at least and at most for all of it: clients that came at
/// once come back one by one, and in time to a server that was added.
pub(super) fn answer(follower: Follower, seat: Seat<String>, life: Duration) -> Response {
    let chance = f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX);
    let stream = Stream {
        follower,
        _seat: seat,
        ends: Instant::now() + life.mul_f64(0.5 + chance / 2.0),
        begun: false,
    };
    // Asked for more only when what was handed out has gone: a client that reads slowly makes us
    // hold one event.
    let events = unfold(stream, |mut stream| async move {
        let event = stream.event().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    let mut response = warp::sse::reply(events).into_response();
    let headers = response.headers_mut();
    no_store(headers);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    // nginx would keep events back until its buffer is full.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

impl Stream {
    /// The next event; `None` at the end.
    async fn event(&mut self) -> Option<Event> {
        if !std::mem::replace(&mut self.begun, true) {
            // At once, so that client and proxies see that it has begun.
            let chance = u64::from(u16::from_le_bytes(random())) * RETRY_MS / u64::from(u16::MAX);
            return Some(Event::default().retry(Duration::from_millis(RETRY_MS + chance)));
        }
        let now = Instant::now();
        if now >= self.ends {
            return None;
        }
        // Where nothing comes the key is looked at again each time.
        match self.follower.next(self.ends.min(now + ALIVE)).await {
            Ok(Next::State(state)) => event(&state),
            Ok(Next::Quiet) => Some(Event::default().comment("")),
            Ok(Next::Stopping | Next::Gone) => None,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(node_id = self.follower.node(), error, "a stream ends");
                None
            }
        }
    }
}

fn event(state: &DesiredState) -> Option<Event> {
    let name = if state.snapshot {
        "snapshot"
    } else {
        "changes"
    };
    let event = Event::default().event(name).id(state.revision.to_string());
    // Which it always can be.
    event.json_data(state).ok()
}
