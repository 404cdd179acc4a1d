//! `/api/v1/admin/nodes`.

use std::sync::Arc;

use totoro_api::wire::node::{ChangeNode, NewNode};
use warp::Filter as _;

use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, plain, with_id};
use super::{Answer, Api, Scope, reply};
use crate::app::checked_id;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    let all = || warp::path!("nodes");
    let one = || warp::path!("nodes" / String);
    any_of([
        plain(api, all().and(warp::post()).boxed(), create),
        plain(api, all().and(warp::get()).boxed(), list),
        with_id(api, one().and(warp::get()).boxed(), show),
        with_id(api, one().and(warp::patch()).boxed(), change),
        with_id(api, one().and(warp::delete()).boxed(), remove),
        with_id(
            api,
            warp::path!("nodes" / String / "token")
                .and(warp::post())
                .boxed(),
            token,
        ),
    ])
}

async fn create(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let (new, text) = incoming.json_and_text::<NewNode>(BODY_LIMIT).await?;
    let request = format!("node {text}");
    let request = incoming.idempotency(&request)?;
    let made = api.app.create_node(&caller, new, request).await?;
    Ok(reply::created(
        &format!("/api/v1/admin/nodes/{}", made.id),
        &made,
    ))
}

async fn list(api: Arc<Api>, incoming: Incoming) -> Answer {
    api.caller(Scope::Admin, &incoming)?;
    let mut query = incoming.query()?;
    let (cursor, limit) = (query.take("cursor"), query.limit()?);
    query.done()?;
    Ok(reply::ok(&api.app.nodes(cursor.as_deref(), limit)?))
}

async fn show(api: Arc<Api>, id: String, incoming: Incoming) -> Answer {
    api.caller(Scope::Admin, &incoming)?;
    let node = api.app.node_view(api.app.node_named(&id)?)?;
    Ok(reply::versioned(reply::ok(&node), node.version))
}

async fn change(api: Arc<Api>, id: String, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let version = incoming.if_match()?;
    let change: ChangeNode = incoming.json(BODY_LIMIT).await?;
    let node = api
        .app
        .change_node(&caller, checked_id(&id)?, version, &change)
        .await?;
    Ok(reply::versioned(reply::ok(&node), node.version))
}

async fn remove(api: Arc<Api>, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let version = incoming.if_match()?;
    let id = checked_id(&id)?;
    api.app.delete_node(&caller, id, version).await?;
    Ok(reply::nothing())
}

async fn token(api: Arc<Api>, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let request = incoming.idempotency("token")?;
    let made = api
        .app
        .new_enrolment(&caller, checked_id(&id)?, request)
        .await?;
    Ok(reply::with(warp::http::StatusCode::CREATED, &made))
}
