//! `/`: the public nodes and a box for a code, for people with a browser. A code travels in a form's
//! body; the answer is the same page with what it is good for, and is kept nowhere.

mod list;
mod view;

use std::sync::{Arc, LazyLock};

use askama::Template as _;
use totoro_api::Reason;
use totoro_web::{Frame, Lang, SCRIPT};
use utoipa::openapi::ContentBuilder;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder};
use warp::http::StatusCode;
use warp::http::header::{
    ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use warp::reply::Response;

use super::about::{About, Who, string};
use super::incoming::{BODY_LIMIT, Incoming};
use super::problem::ApiError;
use super::route::{Route, any_of, at, plain};
use super::{Answer, Api};
use crate::app::Failure;
use crate::app::holder::Visitor;
use list::{List, Wanted};
use view::{Access, Home, Refused};

pub(super) fn routes(api: &Arc<Api>) -> Route {
    any_of([
        plain(api, at!(get,), looking(), look),
        plain(api, at!(post,), using(), using_it),
    ])
}

/// Every answer is the page, refusals too.
fn about(summary: &'static str) -> About {
    let page = |about: About, (status, text): (u16, &str)| {
        about.media(status, text, "text/html", string())
    };
    let about = About::new(Who::Person, summary).query(
        "lang",
        "`en` or `zh`; else what the browser prefers.",
        string(),
    );
    let mut about = [
        (200, "The page."),
        (429, "The page, without the nodes: too many requests."),
        (500, "The page, without the nodes: something failed."),
    ]
    .into_iter()
    .fold(about, page)
    .tells(429, "Retry-After", "Seconds until it is worth another try.");
    about.refusals.clear();
    about
}

fn looking() -> About {
    let mut about = about("The public nodes as a page")
        .says("Best first. What else a query has is ignored.")
        .query("region", "Nodes of this region alone.", string())
        .query("isp", "Nodes in this network alone.", string())
        .query(
            "sort",
            "`load`, `ports` or `name`; else the best first.",
            string(),
        )
        .query("page", "Which page, from 1.", string());
    about.refusals.clear();
    about
}

fn using() -> About {
    let field = |name: &str, text: &str| {
        let text = string().min_length(Some(1)).description(Some(text));
        ObjectBuilder::new().property(name, text).required(name)
    };
    let form = AnyOfBuilder::new()
        .item(field("code", "The invite's code, to look up."))
        .item(field("node", "Or a public node's id, to use as anyone."));
    let form = ContentBuilder::new()
        .schema(Some(form))
        .example(Some(serde_json::json!({ "node": "n-0123456789ab" })));
    let mut about = about("What a code is good for, as a page")
        .says("The node, what holds, and how to begin. The page has the code in it and so is a secret.")
        .takes("application/x-www-form-urlencoded", BODY_LIMIT, form);
    for (status, text) in [
        (400, "The page, and what is malformed."),
        (
            403,
            "The page, and why the code or the node admits nobody now.",
        ),
        (404, "The page: there is no such code or node."),
        (408, "The page: the form came too slowly."),
        (413, "The page: the form is too large."),
        (
            422,
            "The page: the code needs a newer version of this program.",
        ),
        (503, "The page: the node is away, full or draining."),
    ] {
        about = about.media(status, text, "text/html", string());
    }
    about.refusals.clear();
    about.tells(503, "Retry-After", "Seconds until it is worth another try.")
}

async fn look(api: Arc<Api>, incoming: Incoming) -> Answer {
    let wanted = Wanted::of(&incoming);
    let refused = api.limiters.public.check(incoming.address()).err();
    Ok(show(&api, wanted, refused.map_or(Panel::None, Panel::Refused)).await)
}

async fn using_it(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    let panel = match access(&api, &mut incoming).await {
        Ok(access) => Panel::Access(Box::new(access)),
        Err(error) => Panel::Refused(error),
    };
    Ok(show(&api, Wanted::of(&incoming), panel).await)
}

/// What a form asks for.
async fn access(api: &Arc<Api>, incoming: &mut Incoming) -> Result<Access, ApiError> {
    api.limiters.resolve.check(incoming.address())?;
    let body = incoming.bytes(BODY_LIMIT).await?;
    let field = |name: &str| {
        let mut fields = form_urlencoded::parse(&body);
        let found = fields.find(|(field, value)| field == name && !value.is_empty());
        found.map(|(_, value)| value.into_owned())
    };
    let (code, node) = (field("code"), field("node"));
    let incoming = &*incoming;
    let visitor = Visitor {
        address: incoming.address(),
        request_id: incoming.request_id(),
    };
    let url = &api.app.config.public_url;
    match (code, node) {
        (Some(code), _) => {
            api.check_code(incoming, &code)?;
            Ok(Access::of_invite(
                api.app.resolve(&code, visitor).await?,
                url,
            ))
        }
        (None, Some(node)) => Ok(Access::of_node(
            api.app.public_access(&node, visitor).await?,
            url,
        )),
        (None, None) => Err(Failure::malformed("the form has no code").into()),
    }
}

/// The page's policy; its hashes are made once.
static POLICY: LazyLock<Option<HeaderValue>> =
    LazyLock::new(|| HeaderValue::from_str(&totoro_web::policy(Some(SCRIPT))).ok());

/// What is above the list.
enum Panel {
    None,
    Access(Box<Access>),
    Refused(ApiError),
}

async fn show(api: &Arc<Api>, wanted: Wanted, panel: Panel) -> Response {
    // Who asks too often is not given the list either.
    let limited = matches!(&panel, Panel::Refused(error) if error.retry_after.is_some());
    let nodes = match limited {
        true => None,
        false => api.app.all_public_nodes().await.ok(),
    };
    let frame = Frame::new(wanted.lang, Some(SCRIPT), "", &wanted.query());
    let mut status = StatusCode::OK;
    let (mut access, mut refused, mut retry_after, mut reason) = (None, None, None, None);
    match panel {
        Panel::None if nodes.is_none() => {
            status = StatusCode::INTERNAL_SERVER_ERROR;
            reason = Some(Reason::Internal);
            refused = Some(Refused::new(frame.lang, &Reason::Internal.into()));
        }
        Panel::None => {}
        Panel::Access(granted) => access = Some(granted),
        Panel::Refused(error) => {
            status = error.status;
            retry_after = error.retry_after;
            reason = Some(error.refusal.reason);
            refused = Some(Refused::new(frame.lang, &error.refusal));
        }
    }
    let page = Home {
        list: nodes.map(|nodes| List::new(&nodes, wanted)),
        page: frame,
        access,
        refused,
    };
    let Ok(html) = page.render() else {
        return ApiError::from(Failure::from(Reason::Internal)).into_response();
    };
    let mut response = Response::new(html.into());
    *response.status_mut() = status;
    // For log and figures.
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (VARY, ACCEPT_LANGUAGE.as_str()),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    if let Some(policy) = &*POLICY {
        headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
    }
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The language that a request is answered in.
fn lang_of(incoming: &Incoming, asked: Option<&str>) -> Lang {
    totoro_web::choose(asked, incoming.header(ACCEPT_LANGUAGE.as_str()))
}
