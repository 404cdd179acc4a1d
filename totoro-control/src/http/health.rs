//! `/healthz` (the process answers) and `/readyz` (its store can write and it is not ending).

use std::sync::Arc;
use std::time::Duration;

use totoro_api::{Reason, Refusal};
use warp::Filter as _;
use warp::http::StatusCode;

use super::incoming::Incoming;
use super::problem::ApiError;
use super::route::{Route, any_of, plain};
use super::{Answer, Api, reply};
use crate::store::Commit;

/// How long the store's writer may take for nothing: longer, and its disk does not keep up.
const WRITER_TIME: Duration = Duration::from_secs(1);

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
    // Nothing to write, but it goes through the writer.
    let written = tokio::time::timeout(WRITER_TIME, api.app.store.commit(Commit::default())).await;
    written.map_err(|_| unready("the store does not write"))??;
    Ok(reply::ok(&serde_json::json!({ "status": "ok" })))
}
