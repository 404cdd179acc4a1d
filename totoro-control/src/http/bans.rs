//! `…/bans`, for a node's key and for admins (who may ban on all nodes).

use std::sync::Arc;

use totoro_api::wire::ban::NewBan;
use warp::Filter as _;

use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, plain, with_id};
use super::{Answer, Api, Scope, reply};

pub(super) fn routes(api: &Arc<Api>, scope: Scope) -> Route {
    let all = || warp::path!("bans");
    let one = warp::path!("bans" / String);
    any_of([
        plain(
            api,
            all().and(warp::post()).boxed(),
            move |api, incoming| add(api, scope, incoming),
        ),
        plain(api, all().and(warp::get()).boxed(), move |api, incoming| {
            list(api, scope, incoming)
        }),
        with_id(
            api,
            one.and(warp::delete()).boxed(),
            move |api, id, incoming| lift(api, scope, id, incoming),
        ),
    ])
}

async fn add(api: Arc<Api>, scope: Scope, mut incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let (new, text) = incoming.json_and_text::<NewBan>(BODY_LIMIT).await?;
    let request = format!("ban {text}");
    let request = incoming.idempotency(&request)?;
    let made = api.app.add_ban(&caller, &new, request).await?;
    Ok(reply::with(warp::http::StatusCode::CREATED, &made))
}

async fn list(api: Arc<Api>, scope: Scope, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let (node, cursor, limit) = (query.take("node"), query.take("cursor"), query.limit()?);
    query.done()?;
    Ok(reply::ok(&api.app.bans(
        &caller,
        node.as_deref(),
        cursor.as_deref(),
        limit,
    )?))
}

async fn lift(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let node = query.take("node");
    query.done()?;
    api.app.lift_ban(&caller, node.as_deref(), &id).await?;
    Ok(reply::nothing())
}
