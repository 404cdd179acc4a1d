//! `/healthz` (the process answers) and `/readyz` (its store and its trail can write and it is not ending).

use std::sync::Arc;

use totoro_api::{Reason, Refusal};
use utoipa::openapi::schema::ObjectBuilder;
use warp::http::StatusCode;

use super::about::{About, Who, string};
use super::incoming::Incoming;
use super::problem::ApiError;
use super::route::{Route, any_of, at, plain};
use super::{Answer, Api, reply};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(
            api,
            at!(get, "healthz"),
            about("The process answers"),
            alive,
        ),
        plain(
            api,
            at!(get, "readyz"),
            about("It can do its work")
                .says("The store writes, events get into audit segments, and it is not ending.")
                .refused(StatusCode::SERVICE_UNAVAILABLE, Reason::Internal),
            ready,
        ),
    ])
}

fn about(summary: &'static str) -> About {
    let ok = ObjectBuilder::new()
        .property("status", string().enum_values(Some(["ok"])))
        .required("status");
    About::new(Who::Machine, summary).media(200, "Yes.", "application/json", ok)
}

async fn alive(_: Arc<Api>, _: Incoming) -> Answer {
    Ok(reply::ok(&serde_json::json!({ "status": "ok" })))
}

async fn ready(api: Arc<Api>, _: Incoming) -> Answer {
    let unready = |why| ApiError {
        refusal: Refusal::with(Reason::Internal, why),
        status: StatusCode::SERVICE_UNAVAILABLE,
        retry_after: Some(5),
        allow: None,
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
