//! `GET /nodes/watch`: a node's desired state, as a stream of server-sent events, or as a long poll
//! (`?wait=30s&gen=G&rev=R`) where a proxy on the way keeps streams back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use totoro_api::Reason;
use totoro_api::ticket::Revision;
use totoro_api::wire::push::DesiredState;

use super::about::{About, formed, integer, string};
use super::incoming::{Incoming, Query};
use super::route::{Route, at, plain};
use super::{Answer, Api, ApiError, Scope, reply, stream};
use crate::app::Failure;
use crate::duration::Span;
use crate::push::Next;

/// The longest wait: below what proxies on the way allow an answer to take.
const MAX_WAIT: Duration = Duration::from_secs(55);

/// When a node with too many open polls may try again, seconds.
const RETRY_S: u64 = 5;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    plain(api, at!(get, "watch"), about(), watch)
}

fn about() -> About {
    let number = || integer(0, usize::MAX);
    About::new(Scope::Node, "What the node is to be")
        .says(
            "A snapshot for who says nothing of where it stands, else what changed since. What a \
               store that was restored says is always a snapshot. As a long poll; or, with \
               `Accept: text/event-stream` and no `wait`, as server-sent events: `snapshot` and then \
               `changes`, whose id is what a node that applied them stands at, and the data is the \
               JSON of the long poll.",
        )
        .header(
            "Last-Event-ID",
            "For a stream: the id of the last event that you applied. One that is not ours gets a \
             snapshot.",
            string(),
        )
        .query(
            "wait",
            "Wait so long (55s at most) for something new; not at all when absent.",
            formed("span"),
        )
        .query(
            "gen",
            "Where the node stands: the store's incarnation. With `rev` or not at all.",
            number(),
        )
        .query(
            "rev",
            "Where the node stands: the policy's revision.",
            number(),
        )
        .answer::<DesiredState>(200, "What is new.")
        .media(200, "", "text/event-stream", string())
        .empty(204, "Nothing is new.")
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
fn stands(query: &mut Query<'_>) -> Result<Option<Revision>, ApiError> {
    match (query.parse::<u64>("gen")?, query.parse::<u64>("rev")?) {
        (Some(generation), Some(rev)) => Ok(Some(Revision { generation, rev })),
        (None, None) => Ok(None),
        _ => Err(ApiError::malformed("query: gen and rev go together")),
    }
}
