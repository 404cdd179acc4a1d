//! `…/sessions`, for a node's key and for admins (who name the node to kick on).

use std::sync::Arc;

use warp::Filter as _;

use super::incoming::Incoming;
use super::route::{Route, any_of, plain, with_id};
use super::{Answer, Api, Scope, reply};

pub(super) fn routes(api: &Arc<Api>, scope: Scope) -> Route {
    let all = warp::path!("sessions");
    let one = warp::path!("sessions" / String);
    any_of([
        plain(api, all.and(warp::get()).boxed(), move |api, incoming| {
            list(api, scope, incoming)
        }),
        with_id(
            api,
            one.and(warp::delete()).boxed(),
            move |api, id, incoming| kick(api, scope, id, incoming),
        ),
    ])
}

async fn list(api: Arc<Api>, scope: Scope, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let (node, cursor, limit) = (query.take("node"), query.take("cursor"), query.limit()?);
    query.done()?;
    let page = (cursor.as_deref(), limit);
    Ok(reply::ok(&api.app.sessions(
        &caller,
        node.as_deref(),
        page,
    )?))
}

async fn kick(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let node = query.take("node");
    query.done()?;
    api.app.kick(&caller, node.as_deref(), &id).await?;
    Ok(reply::nothing())
}
