//! `GET /nodes/watch?wait=30s&gen=G&rev=R`: a long poll for a node's desired state.

use std::sync::Arc;
use std::time::Duration;

use totoro_api::ticket::Revision;
use totoro_api::wire::push::DesiredState;

use super::about::{About, formed, integer, string};
use super::incoming::Incoming;
use super::route::{Route, at, plain};
use super::{Answer, Api, ApiError, Scope, reply};
use crate::duration::Span;

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
    let wait = query
        .parse::<Span>("wait")?
        .map_or(Duration::ZERO, |span| span.0.min(MAX_WAIT));
    let stands = match (query.parse::<u64>("gen")?, query.parse::<u64>("rev")?) {
        (Some(generation), Some(rev)) => Some(Revision { generation, rev }),
        (None, None) => None,
        _ => return Err(ApiError::malformed("query: gen and rev go together")),
    };
    query.done()?;
    let node = caller.node(None)?;
    let _seat = api
        .polls
        .take(node.to_owned())
        .ok_or_else(|| ApiError::rate_limited(RETRY_S))?;
    match api.app.watch(node, stands, wait).await? {
        Some(state) => Ok(reply::ok(&state)),
        None => Ok(reply::nothing()),
    }
}
