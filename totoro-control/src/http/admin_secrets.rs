//! `/api/v1/admin/tokens` and `/api/v1/admin/ticket-keys`.

use std::sync::Arc;

use totoro_api::wire::admin::NewToken;
use warp::Filter as _;
use warp::http::StatusCode;

use super::incoming::{BODY_LIMIT, Incoming};
use super::route::{Route, any_of, plain, with_id};
use super::{Answer, Api, Scope, reply};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    let tokens = || warp::path!("tokens");
    let token = warp::path!("tokens" / String);
    let keys = || warp::path!("ticket-keys");
    any_of([
        plain(api, tokens().and(warp::get()).boxed(), list),
        plain(api, tokens().and(warp::post()).boxed(), create),
        with_id(api, token.and(warp::delete()).boxed(), revoke),
        plain(api, keys().and(warp::get()).boxed(), keys_now),
        plain(api, keys().and(warp::post()).boxed(), rotate),
    ])
}

async fn list(api: Arc<Api>, incoming: Incoming) -> Answer {
    api.caller(Scope::Admin, &incoming)?;
    incoming.query()?.done()?;
    Ok(reply::ok(&api.app.tokens()?))
}

async fn create(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let (new, text) = incoming.json_and_text::<NewToken>(BODY_LIMIT).await?;
    let request = format!("token {text}");
    let request = incoming.idempotency(&request)?;
    let made = api.app.create_token(&caller, &new, request).await?;
    Ok(reply::with(StatusCode::CREATED, &made))
}

async fn revoke(api: Arc<Api>, id: String, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    api.app.revoke_token(&caller, &id).await?;
    Ok(reply::nothing())
}

async fn keys_now(api: Arc<Api>, incoming: Incoming) -> Answer {
    api.caller(Scope::Admin, &incoming)?;
    incoming.query()?.done()?;
    Ok(reply::ok(&api.app.ticket_key_list()?))
}

async fn rotate(api: Arc<Api>, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    let request = incoming.idempotency("rotate")?;
    let keys = api.app.rotate_ticket_key(&caller, request).await?;
    Ok(reply::with(StatusCode::CREATED, &keys))
}
