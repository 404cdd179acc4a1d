//! `GET /api/v1/openapi.json` and the same as a page, `GET /api/v1/docs`: what this address serves,
//! for anyone. Both are made once, at the start.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use utoipa::openapi::schema::ObjectBuilder;
use warp::http::StatusCode;
use warp::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use warp::reply::{Reply as _, Response};

use super::about::{About, Who, string};
use super::incoming::Incoming;
use super::route::{Route, Served, any_of, at, plain};
use super::{Api, document, page};

/// Where the page is: a problem's `type` points into it.
pub(super) const PAGE: &str = "/api/v1/docs";
/// It changes with the program alone.
const CACHE: &str = "public, max-age=3600";

/// What is served, once it is known what there is to describe.
#[derive(Default)]
pub(super) struct Pages {
    json: OnceLock<Written>,
    html: OnceLock<Written>,
}

struct Written {
    body: Bytes,
    tag: String,
    /// What the page may load: its own style and nothing else.
    policy: String,
}

impl Written {
    fn new(body: String, policy: String) -> Self {
        let hash = blake3::hash(body.as_bytes()).to_hex();
        let tag = format!("\"{}\"", &hash[..32]);
        Written {
            body: body.into(),
            tag,
            policy,
        }
    }

    fn answer(&self, incoming: &Incoming, kind: &'static str) -> Response {
        let mut response = match incoming.names(&IF_NONE_MATCH, &self.tag) {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => Response::new(self.body.clone().into()),
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(CACHE));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        for (name, value) in [(ETAG, &self.tag), (CONTENT_SECURITY_POLICY, &self.policy)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

impl Pages {
    /// Describes what is served, these two among it.
    pub(super) fn write(&self, served: &[Served]) {
        let document = document::of(served);
        let json = Written::new(document.to_string(), "default-src 'none'".to_owned());
        let html = Written::new(page::of(&document).into_string(), totoro_web::policy(None));
        let _ = (self.json.set(json), self.html.set(html));
    }
}

/// The routes, and what is to be written before they serve.
pub(super) fn routes(api: &Arc<Api>) -> (Route, Arc<Pages>) {
    let pages = Arc::new(Pages::default());
    let (json, html) = (Arc::clone(&pages), Arc::clone(&pages));
    let document = about("This document").media(
        200,
        "OpenAPI 3.1.",
        "application/json",
        ObjectBuilder::new(),
    );
    let page = about("This document as a page").media(200, "For people.", "text/html", string());
    let route = any_of([
        plain(
            api,
            at!(get, "openapi.json"),
            document,
            move |_, incoming| {
                let answer = json
                    .json
                    .get()
                    .map(|it| it.answer(&incoming, "application/json"));
                async move { Ok(answer.unwrap_or_default()) }
            },
        ),
        plain(api, at!(get, "docs"), page, move |_, incoming| {
            let kind = "text/html; charset=utf-8";
            let answer = html.html.get().map(|it| it.answer(&incoming, kind));
            async move { Ok(answer.unwrap_or_default()) }
        }),
    ]);
    (route, pages)
}

fn about(summary: &'static str) -> About {
    About::new(Who::Machine, summary)
        .header(
            "If-None-Match",
            "The ETag of the one that you have.",
            string(),
        )
        .tells(200, "ETag", "The version, for `If-None-Match`.")
        .empty(304, "The one that you have is this one.")
}
