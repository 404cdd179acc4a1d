//! What a node's daemon sends: enrolment, heartbeats, what it applied, its events.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::wire::event::EventBatch;
use totoro_api::wire::node::{Enroll, Heartbeat};
use totoro_api::wire::push::Applied;
use warp::Filter as _;

use super::incoming::{BATCH_LIMIT, BODY_LIMIT, Incoming};
use super::route::{Route, any_of, plain};
use super::{Answer, Api, ApiError, Scope, reply};
use crate::app::Failure;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(
            api,
            warp::path!("heartbeat").and(warp::post()).boxed(),
            heartbeat,
        ),
        plain(api, warp::path!("events").and(warp::post()).boxed(), events),
        plain(
            api,
            warp::path!("applied").and(warp::post()).boxed(),
            applied,
        ),
        plain(api, warp::path!("enroll").and(warp::post()).boxed(), enroll),
    ])
}

async fn heartbeat(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let heartbeat: Heartbeat = incoming.json(BATCH_LIMIT).await?;
    let node = api.app.node_record(caller.node(None)?)?;
    Ok(reply::ok(
        &api.app.heartbeat(&caller, node, heartbeat).await?,
    ))
}

async fn events(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let batch: EventBatch = incoming.json(BATCH_LIMIT).await?;
    Ok(reply::ok(&api.app.accept_events(&caller, &batch).await?))
}

async fn applied(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Node, &incoming)?;
    let applied: Applied = incoming.json(BODY_LIMIT).await?;
    api.app.applied(&caller, &applied).await?;
    Ok(reply::nothing())
}

async fn enroll(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let address = incoming.address();
    let enroll: Enroll = incoming.json(BODY_LIMIT).await?;
    let token = incoming.bearer().unwrap_or_default();
    let enrolled = api
        .app
        .enrol(token, &enroll, address, incoming.request_id())
        .await;
    let wrong_key = |failure: &Failure| {
        failure
            .refusal()
            .is_some_and(|refusal| refusal.reason == Reason::NotAuthorized)
    };
    match enrolled {
        Ok(enrolled) => Ok(reply::ok(&enrolled)),
        Err(failure) if wrong_key(&failure) => Err(api.wrong_key(&incoming, failure)),
        Err(failure) => Err(ApiError::from(failure)),
    }
}
