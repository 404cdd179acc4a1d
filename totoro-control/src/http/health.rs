//! `/healthz` (the process answers) and `/readyz` (its store and its trail can write and it is not ending).

use std::sync::Arc;

use totoro_api::{Reason, Refusal};
use warp::Filter as _;
use warp::http::StatusCode;

use super::incoming::Incoming;
use super::problem::ApiError;
use super::route::{Route, any_of, plain};
use super::{Answer, Api, reply};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(api, warp::path!("healthz").and(warp::get()).boxed(), alive),
        plain(api, warp::path!("readyz").and(warp::get()).boxed(), ready),
    ])
}

async fn alive(_: Arc<Api>, _: Incoming) -> Answer {
    Ok(reply::ok(&serde_json::json!({ "status": "ok" })))
}

async fn ready(api: Arc<Api>, _: Incoming) -> Answer {
    let unready = |why| ApiError {
        refusal: Refusal::with(Reason::Internal, why),
        status: StatusCode::SERVICE_UNAVAILABLE,
        retry_after: Some(5),
    };
    if *api.app.stopping().borrow() {
        return Err(unready("the control plane is ending"));
    }
    if !api.app.writes().await? {
        return Err(unready("the store does not write"));
    }
    if !api.app.moves_events() {
        return Err(unready("the audit trail does not write: see the log"));
    }
    Ok(reply::ok(&serde_json::json!({ "status": "ok" })))
}
