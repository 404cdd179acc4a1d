//! `GET /metrics` for Prometheus.
//!
//! Open on the admins' own address where that is loopback. Everywhere else it takes an admin's
//! token: behind a proxy on this machine all the world comes from loopback, so an address proves
//! nothing there.

use std::sync::Arc;

use totoro_api::Reason;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::{Reply as _, Response};

use super::about::{About, Who, string};
use super::incoming::Incoming;
use super::problem::ApiError;
use super::reply::no_store;
use super::route::{Route, at, plain};
use super::{Answer, Api, Scope};
use crate::app::Failure;
use crate::metrics::Now;

/// The format's media type.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where a token is asked for.
pub(super) fn guarded(api: &Arc<Api>) -> Route {
    let about = about(Scope::Admin);
    plain(
        api,
        at!(get, "metrics"),
        about,
        |api, incoming: Incoming| async move {
            api.caller(Scope::Admin, &incoming)?;
            figures(&api).await
        },
    )
}

/// Where the address is enough.
pub(super) fn open(api: &Arc<Api>) -> Route {
    let about = about(Who::Machine);
    plain(api, at!(get, "metrics"), about, |api, _| async move {
        figures(&api).await
    })
}

fn about(who: impl Into<Who>) -> About {
    About::new(who, "Figures for Prometheus")
        .says("In the OpenMetrics text format. Open on an admins' address on loopback alone.")
        .media(200, "The figures.", OPENMETRICS, string())
}

async fn figures(api: &Arc<Api>) -> Answer {
    let failed = || ApiError::from(Failure::from(Reason::Internal));
    let (app, watchers) = (Arc::clone(&api.app), api.polls.total());
    // It reads every node's record.
    let written = tokio::task::spawn_blocking(move || {
        let audit = app.trail.figures();
        let now = Now {
            nodes: app.nodes_by_state()?,
            decoded: app.decoded_figures().to_vec(),
            watchers,
            queued: app.store.queued(),
            audit_waiting: audit.waiting,
            audit_moving: audit.moving,
            audit_damaged: audit.damaged,
            audit_bytes: audit.bytes,
        };
        app.metrics
            .text(&now)
            .map_err(|_| Failure::from(Reason::Internal))
    });
    let text = written.await.map_err(|_| failed())??;
    let mut response: Response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
    no_store(headers);
    Ok(response)
}
