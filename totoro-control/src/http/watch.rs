//! `GET /nodes/watch?wait=30s&gen=G&rev=R`: a long poll for a node's desired state.

use std::sync::Arc;
use std::time::Duration;

use totoro_api::ticket::Revision;
use warp::Filter as _;

use super::incoming::Incoming;
use super::route::{Route, plain};
use super::{Answer, Api, ApiError, Scope, reply};
use crate::duration::Span;

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
