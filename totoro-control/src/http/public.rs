//! `/public/nodes`: for anyone.

use std::sync::Arc;

use warp::Filter as _;

use super::incoming::Incoming;
use super::route::{Route, any_of, plain, with_id};
use super::{Answer, Api, reply};
use crate::app::holder::Visitor;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    let ticket_of = warp::path!("nodes" / String / "ticket");
    any_of([
        plain(api, warp::path!("nodes").and(warp::get()).boxed(), list),
        with_id(api, ticket_of.and(warp::post()).boxed(), ticket),
    ])
}

async fn list(api: Arc<Api>, incoming: Incoming) -> Answer {
    api.limiters.public.check(incoming.address())?;
    let mut query = incoming.query()?;
    let (cursor, limit) = (query.take("cursor"), query.limit()?);
    query.done()?;
    Ok(reply::ok(
        &api.app.public_nodes(cursor.as_deref(), limit).await?,
    ))
}

async fn ticket(api: Arc<Api>, node: String, incoming: Incoming) -> Answer {
    api.limiters.public.check(incoming.address())?;
    let visitor = Visitor {
        address: incoming.address(),
        request_id: incoming.request_id(),
    };
    Ok(reply::ok(&api.app.public_access(&node, visitor).await?))
}
