//! `/api/v1/frp/…`: the same as the page, for programs. The shape is Totoro's own: what other clients
//! have under these names is not known here.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde::{Deserialize, Serialize};

use super::Serve;
use super::saved::Asked;
use crate::access::Source;
use crate::error::Error;
use crate::invite;
use crate::lang::Lang;
use crate::target::Wanted;

/// How long `connect` waits for what becomes of it, by default and at most, seconds.
const WAIT_S: (u64, u64) = (10, 60);
/// The rest between two messages of the event stream.
const REST: Duration = Duration::from_millis(200);

/// `POST /api/v1/frp/connect`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Connect {
    /// A public node's name or id.
    #[serde(default)]
    node: Option<String>,
    /// Or an invite's code.
    #[serde(default)]
    invite: Option<String>,
    /// The control plane; by default the one that `serve` was told.
    #[serde(default)]
    control: Option<String>,
    /// What is exposed.
    proxies: Vec<Wanted>,
    /// Whether it comes back after a restart.
    #[serde(default)]
    remember: bool,
    /// How long to wait for what becomes of it, seconds.
    #[serde(default)]
    wait_s: Option<u64>,
}

/// An error as RFC 9457 has it.
#[derive(Serialize)]
struct Problem {
    title: &'static str,
    status: u16,
    detail: String,
    code: String,
    next: String,
}

/// An error on its way out.
pub(super) struct Failed(StatusCode, String, String, String);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let (status, code) = match &error {
            Error::Refused(told) => (StatusCode::FORBIDDEN, told.code.as_str()),
            Error::BadCode(_) => (StatusCode::BAD_REQUEST, "invite_unknown"),
            Error::Unreachable { .. } | Error::Nonsense { .. } => {
                (StatusCode::BAD_GATEWAY, "control_unreachable")
            }
            Error::FrpcMissing | Error::FrpcOld { .. } | Error::FrpcFails { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "frpc_unusable")
            }
            Error::File { .. } | Error::Loose(_) | Error::Canary(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
            _ => (StatusCode::BAD_REQUEST, "request_malformed"),
        };
        let code = code.to_owned();
        Failed(status, code, error.what(Lang::En), error.next(Lang::En))
    }
}

impl Failed {
    fn new(status: StatusCode, code: &str, detail: &str, next: &str) -> Self {
        Failed(status, code.to_owned(), detail.to_owned(), next.to_owned())
    }

    fn no_token() -> Self {
        Failed::new(
            StatusCode::FORBIDDEN,
            "not_authorized",
            "changes need this run's token",
            "send it as a bearer: totoro serve says in which file it is",
        )
    }

    fn not_found() -> Self {
        Failed::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "there is no such connection",
            "GET /api/v1/frp/connections lists them",
        )
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let Failed(status, code, detail, next) = self;
        let problem = Problem {
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail,
            code,
            next,
        };
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        (status, kind, Json(problem)).into_response()
    }
}

pub(super) async fn connect(
    State(serve): State<Arc<Serve>>,
    headers: HeaderMap,
    body: Result<Json<Connect>, JsonRejection>,
) -> Result<Response, Failed> {
    if !serve.guard.has_token(&headers) {
        return Err(Failed::no_token());
    }
    // Its own words name the field and the place, never what stands there.
    let Json(body) = body.map_err(|rejection| {
        let next = "send JSON with node or invite, and proxies";
        let detail = match &rejection {
            JsonRejection::JsonDataError(_) | JsonRejection::JsonSyntaxError(_) => {
                "the body is no JSON of this shape"
            }
            _ => "the body cannot be read as JSON",
        };
        Failed::new(rejection.status(), "request_malformed", detail, next)
    })?;
    let (source, named) = match (body.node, body.invite) {
        (Some(node), None) => (Source::Public(node), None),
        (None, Some(text)) => {
            let given = invite::read(&text, Lang::En)?;
            (given.source, given.control)
        }
        _ => {
            let next = "name a public node, or give a code";
            let detail = "either node or invite";
            return Err(Failed::new(
                StatusCode::BAD_REQUEST,
                "request_malformed",
                detail,
                next,
            ));
        }
    };
    let control = serve.control(body.control.or(named).as_deref())?;
    let asked = Asked::new(&control, serve.options.insecure_http, &source, body.proxies);
    let connections = &serve.connections;
    let id = connections
        .open(asked, None, body.remember, Lang::En)
        .await?;
    let wait = body.wait_s.unwrap_or(WAIT_S.0).min(WAIT_S.1);
    connections.settled(&id, Duration::from_secs(wait)).await;
    let connection = connections.one(&id).await.ok_or_else(Failed::not_found)?;
    let location = [(header::LOCATION, format!("/api/v1/frp/connections/{id}"))];
    Ok((StatusCode::CREATED, location, Json(connection)).into_response())
}

pub(super) async fn list(State(serve): State<Arc<Serve>>) -> Response {
    let items = serve.connections.all().await;
    Json(serde_json::json!({ "items": items })).into_response()
}

pub(super) async fn show(
    State(serve): State<Arc<Serve>>,
    Path(id): Path<String>,
) -> Result<Response, Failed> {
    let found = serve.connections.one(&id).await;
    Ok(Json(found.ok_or_else(Failed::not_found)?).into_response())
}

pub(super) async fn stop(
    State(serve): State<Arc<Serve>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    if !serve.guard.has_token(&headers) {
        return Err(Failed::no_token());
    }
    match serve.connections.stop(&id).await? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(Failed::not_found()),
    }
}

/// All connections at first, and again at every change: who reads slowly gets what is newest.
pub(super) async fn events(
    State(serve): State<Arc<Serve>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut changes = serve.connections.changes();
    changes.mark_changed();
    let stream = futures_util::stream::unfold((serve, changes, true), |state| async move {
        let (serve, mut changes, first) = state;
        if !first {
            tokio::time::sleep(REST).await;
        }
        changes.changed().await.ok()?;
        let items = serve.connections.all().await;
        let event = Event::default().event("connections").json_data(items);
        Some((Ok(event.unwrap_or_default()), (serve, changes, false)))
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}
