//! `POST /api/v1/admin/backup`: a backup as a stream. Its last frame is the checksum, so whoever
//! has it knows that it is whole; when something fails on the way the connection is cut.

use std::sync::Arc;

use futures_util::stream::poll_fn;
use totoro_api::Reason;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use warp::reply::Reply as _;

use super::about::{About, formed};
use super::incoming::Incoming;
use super::route::{Route, at, plain};
use super::{Answer, Api, Scope};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    plain(api, at!(post, "backup"), making(), backup)
}

fn making() -> About {
    About::new(Scope::Admin, "A backup of the store, as it is now")
        .says(
            "Without the secret files. Its last frame is the checksum: without it it is not whole. \
               One at a time.",
        )
        .media(
            200,
            "The backup.",
            "application/octet-stream",
            formed("binary"),
        )
        .refuses(&[Reason::RequestMalformed, Reason::Conflict])
}

async fn backup(api: Arc<Api>, incoming: Incoming) -> Answer {
    let caller = api.caller(Scope::Admin, &incoming)?;
    incoming.query()?.done()?;
    let mut pieces = api.app.backup(&caller).await?;
    let body = poll_fn(move |context| pieces.poll_recv(context));
    let mut response = warp::reply::stream(body).into_response();
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
