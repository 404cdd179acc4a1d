//! `GET /nodes/watch`: a node's desired state, as a stream of server-sent events, or as a long poll
//! (`?wait=30s&gen=G&rev=R`) where a proxy on the way keeps streams back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use totoro_api::Reason;
use totoro_api::ticket::Revision;
use warp::Filter as _;

use super::incoming::{Incoming, Query};
use super::route::{Route, plain};
use super::{Answer, Api, ApiError, Scope, reply, stream};
use crate::app::Failure;
use crate::duration::Span;
use crate::push::Next;

/// The longest wait: below what proxies on the way allow an answer to take.
const MAX_WAIT: Duration = Duration::from_secs(55);

/// When a node with too many open polls may try again, seconds.
const RETRY_S: u64 = 5;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    plain(api, warp::path!("watch").and(warp::get()).boxed(), watch)
}

async fn watch(api: Arc<Api>, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let mut query = incoming.query()?;
    let wait = query.parse::<Span>("wait")?;
    let stands = stands(&mut query)?;
    query.done()?;
    let node = caller.node(None)?;
    let seat = api
        .polls
        .take(node.to_owned())
        .ok_or_else(|| ApiError::rate_limited(RETRY_S))?;
    let key = incoming.bearer().unwrap_or_default();
    if wait.is_none() && incoming.accepts(stream::MEDIA_TYPE) {
        // A client that comes back says it in the header, whatever its URL said at first. An id that
        // is not ours is no place to go on from.
        let stands = match incoming.header("last-event-id") {
            Some(id) => id.parse().ok(),
            None => stands,
        };
        let follower = api.app.follow(key, stands)?;
        let life = api.app.config.stream_life.0;
        return Ok(stream::answer(follower, seat, life));
    }
    let wait = wait.map_or(Duration::ZERO, |span| span.0.min(MAX_WAIT));
    let mut follower = api.app.follow(key, stands)?;
    match follower.next(Instant::now() + wait).await? {
        Next::State(state) => Ok(reply::ok(&state)),
        Next::Quiet | Next::Stopping => Ok(reply::nothing()),
        Next::Gone => Err(Failure::from(Reason::NotAuthorized).into()),
    }
}

/// What the caller stands at, as the query says.
fn stands(query: &mut Query) -> Result<Option<Revision>, ApiError> {
    match (query.parse::<u64>("gen")?, query.parse::<u64>("rev")?) {
        (Some(generation), Some(rev)) => Ok(Some(Revision { generation, rev })),
        (None, None) => Ok(None),
        _ => Err(ApiError::malformed("query: gen and rev go together")),
    }
}
