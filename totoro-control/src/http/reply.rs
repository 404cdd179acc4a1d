//! Answers.

use bytes::Bytes;
use serde::Serialize;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, LOCATION};
use warp::http::{HeaderMap, StatusCode};
use warp::reply::{Reply as _, Response};

/// 200 with a body.
pub(super) fn ok(body: &impl Serialize) -> Response {
    with(StatusCode::OK, body)
}

/// A body under a status. Nothing here may be kept by a cache: much of it is secret.
pub(super) fn with(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = warp::reply::with_status(warp::reply::json(body), status).into_response();
    no_store(response.headers_mut());
    response
}

/// 200 with JSON that is written already.
pub(super) fn ok_text(json: &Bytes) -> Response {
    let mut response = Response::new(json.clone().into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    no_store(headers);
    response
}

/// 204.
pub(super) fn nothing() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// Adds the version that `If-Match` wants.
pub(super) fn versioned(mut response: Response, version: u64) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// 201, and where the new thing is.
pub(super) fn created(location: &str, body: &impl Serialize) -> Response {
    let mut response = with(StatusCode::CREATED, body);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Keeps caches off it.
pub(super) fn no_store(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
