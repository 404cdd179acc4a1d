//! `…/invites`, for a node's key and for admins.

use std::sync::Arc;

use totoro_api::wire::invite::{ChangeInvite, Invite, NewInvite};
use warp::Filter as _;
use warp::reply::Response;

use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, plain, with_id};
use super::{Answer, Api, Scope, reply};
use crate::app::invite_list::Filter;

pub(super) fn routes(api: &Arc<Api>, scope: Scope) -> Route {
    let all = || warp::path!("invites");
    let one = || warp::path!("invites" / String);
    let rotated = warp::path!("invites" / String / "rotate");
    any_of([
        plain(
            api,
            all().and(warp::post()).boxed(),
            move |api, incoming| create(api, scope, incoming),
        ),
        plain(api, all().and(warp::get()).boxed(), move |api, incoming| {
            list(api, scope, incoming)
        }),
        with_id(
            api,
            one().and(warp::get()).boxed(),
            move |api, id, incoming| show(api, scope, id, incoming),
        ),
        with_id(
            api,
            one().and(warp::patch()).boxed(),
            move |api, id, incoming| change(api, scope, id, incoming),
        ),
        with_id(
            api,
            one().and(warp::delete()).boxed(),
            move |api, id, incoming| revoke(api, scope, id, incoming),
        ),
        with_id(
            api,
            rotated.and(warp::post()).boxed(),
            move |api, id, incoming| rotate(api, scope, id, incoming),
        ),
    ])
}

async fn create(api: Arc<Api>, scope: Scope, mut incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let (new, text) = incoming.json_and_text::<NewInvite>(BODY_LIMIT).await?;
    let request = format!("create {text}");
    let request = incoming.idempotency(&request)?;
    if let Some(count) = new.count {
        let made = api.app.create_invites(&caller, &new, count, request);
        return Ok(reply::with(warp::http::StatusCode::CREATED, &made.await?));
    }
    let made = api.app.create_invite(&caller, &new, request).await?;
    let group = match scope {
        Scope::Node => "nodes",
        Scope::Admin => "admin",
    };
    let location = format!("/api/v1/{group}/invites/{}", made.id);
    Ok(reply::versioned(
        reply::created(&location, &made),
        made.version,
    ))
}

async fn list(api: Arc<Api>, scope: Scope, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let mut query = incoming.query()?;
    let (node, cursor, limit) = (query.take("node"), query.take("cursor"), query.limit()?);
    let filter = Filter::read(query.take("label"), query.take("state").as_deref())?;
    query.done()?;
    let page = api.app.invites(
        &caller,
        node.as_deref(),
        &filter,
        (cursor.as_deref(), limit),
    )?;
    Ok(reply::ok(&page))
}

async fn show(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    Ok(shown(&api.app.invite(&caller, &id)?))
}

async fn change(api: Arc<Api>, scope: Scope, id: String, mut incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let version = incoming.if_match()?;
    let change: ChangeInvite = incoming.json(BODY_LIMIT).await?;
    Ok(shown(
        &api.app
            .change_invite(&caller, &id, version, &change)
            .await?,
    ))
}

async fn revoke(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let version = incoming.if_match()?;
    Ok(shown(&api.app.revoke_invite(&caller, &id, version).await?))
}

async fn rotate(api: Arc<Api>, scope: Scope, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(scope, &incoming)?;
    let version = incoming.if_match()?;
    let request = format!("rotate {id}");
    let request = incoming.idempotency(&request)?;
    Ok(shown(
        &api.app
            .rotate_invite(&caller, &id, version, request)
            .await?,
    ))
}

fn shown(invite: &Invite) -> Response {
    reply::versioned(reply::ok(invite), invite.version)
}
