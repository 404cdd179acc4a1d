//! The page: a way in is looked up first, and shown with what holds; then it is used. A code comes in
//! a form's body and is not written into any page.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Form, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use totoro_api::ports::Protocol;
use totoro_web::Frame;

use super::looked::Way;
use super::saved::Asked;
use super::views::{Choice, Chosen, Home, Node, Nodes, Qr, Refusal, SCRIPT, Tunnel, Tunnels};
use super::{Serve, listeners};
use crate::access::{Access, Source};
use crate::error::Error;
use crate::invite;
use crate::lang::{Lang, say};
use crate::target::Wanted;

/// The most nodes on a page.
const NODES: usize = 60;
/// How long a person waits for what becomes of a tunnel.
const SETTLES: Duration = Duration::from_secs(5);

pub(super) type Fields = BTreeMap<String, String>;
type Many = Vec<(String, String)>;

/// In which language a request is answered: by its query, or the browser.
pub(super) struct Spoken(pub(super) Lang);

impl<S: Send + Sync> FromRequestParts<S> for Spoken {
    type Rejection = QueryRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, QueryRejection> {
        let Query(query) = Query::<Fields>::try_from_uri(&parts.uri)?;
        let accepted = parts.headers.get(header::ACCEPT_LANGUAGE);
        let accepted = accepted.and_then(|value| value.to_str().ok());
        let asked = query.get("lang").map(String::as_str);
        Ok(Spoken(totoro_web::choose(asked, accepted)))
    }
}

/// A field of a form that may have several of a name: the first.
fn first<'a>(form: &'a Many, name: &str) -> Option<&'a str> {
    let found = form.iter().find(|(field, _)| field == name);
    found.map(|(_, value)| value.as_str())
}

pub(super) fn frame(lang: Lang, path: &str) -> Frame {
    Frame::new(lang, Some(SCRIPT), path, &[])
}

pub(super) fn render(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Back to the page: a reload then asks for nothing again.
pub(super) fn back(lang: Lang) -> Response {
    let to = totoro_web::say(lang, "/?lang=en", "/?lang=zh");
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

impl Serve {
    async fn views(&self, lang: Lang) -> Vec<Tunnel> {
        let all = self.connections.all().await;
        all.into_iter().map(|one| Tunnel::new(one, lang)).collect()
    }

    /// The page, with something above it.
    async fn page(&self, lang: Lang, refused: Option<&Error>, chosen: Option<Chosen>) -> Response {
        let status = refused.map_or(StatusCode::OK, |_| StatusCode::BAD_REQUEST);
        let page = Home {
            page: frame(lang, "/"),
            token: self.guard.token().to_owned(),
            refused: refused.map(|error| Refusal::of_error(error, lang)),
            chosen,
            tunnels: self.views(lang).await,
            before: self.connections.before(),
            control: self.options.control.clone().unwrap_or_default(),
        };
        render(status, &page)
    }

    fn chosen(&self, id: String, access: Access) -> Chosen {
        Chosen {
            id,
            access,
            listeners: listeners::listeners(&["frpc", "totoro"], self.guard.at.port()),
        }
    }

    /// A form that was not made by our page.
    fn foreign(&self, token: Option<&str>) -> Option<Response> {
        let known = token.is_some_and(|token| self.guard.is_token(token));
        let text = "This form is of an earlier run: go back and load the page again.\n";
        (!known).then(|| (StatusCode::FORBIDDEN, text).into_response())
    }
}

pub(super) async fn home(State(serve): State<Arc<Serve>>, Spoken(lang): Spoken) -> Response {
    serve.page(lang, None, None).await
}

/// The tunnels alone, for the script.
pub(super) async fn tunnels(State(serve): State<Arc<Serve>>, Spoken(lang): Spoken) -> Response {
    let part = Tunnels {
        page: frame(lang, "/"),
        token: serve.guard.token().to_owned(),
        tunnels: serve.views(lang).await,
    };
    render(StatusCode::OK, &part)
}

pub(super) async fn nodes(
    State(serve): State<Arc<Serve>>,
    Spoken(lang): Spoken,
    Query(query): Query<Fields>,
) -> Response {
    let of = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let (region, isp) = (of("region"), of("isp"));
    let measured = serve.measured().await;
    let refused = measured
        .as_ref()
        .err()
        .map(|error| Refusal::of_error(error, lang));
    let all = measured.unwrap_or_default();
    let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    let found = all
        .iter()
        .filter(|one| fits(region, &one.node.region) && fits(isp, &one.node.isp));
    let found: Vec<Node> = found.map(|one| Node::new(one, lang)).collect();
    let choices = |of: fn(&crate::nodes::Ranked) -> &String, chosen: &str| {
        let values: BTreeSet<&String> = all
            .iter()
            .map(of)
            .filter(|value| !value.is_empty())
            .collect();
        let choice = |value: &String| Choice {
            value: value.clone(),
            chosen: value == chosen,
        };
        values
            .into_iter()
            .take(NODES)
            .map(choice)
            .collect::<Vec<_>>()
    };
    let page = Nodes {
        page: Frame::new(
            lang,
            Some(SCRIPT),
            "/nodes",
            &[("region", region), ("isp", isp)],
        ),
        token: serve.guard.token().to_owned(),
        refused,
        regions: choices(|one| &one.node.region, region),
        isps: choices(|one| &one.node.isp, isp),
        more: found.len().saturating_sub(NODES),
        nodes: found.into_iter().take(NODES).collect(),
    };
    render(StatusCode::OK, &page)
}

/// A code, a pasted frpc.toml or a public node: what it is good for, before anything begins.
pub(super) async fn look(
    State(serve): State<Arc<Serve>>,
    Spoken(lang): Spoken,
    Form(form): Form<Fields>,
) -> Response {
    if let Some(refused) = serve.foreign(form.get("token").map(String::as_str)) {
        return refused;
    }
    match serve.way(&form, lang).await {
        Ok(way) => {
            let access = way.access.clone();
            let id = serve.looked.keep(way);
            serve.page(lang, None, Some(serve.chosen(id, access))).await
        }
        Err(error) => serve.page(lang, Some(&error), None).await,
    }
}

impl Serve {
    async fn way(&self, form: &Fields, lang: Lang) -> Result<Way, Error> {
        let of = |name: &str| {
            form.get(name)
                .map(|text| text.trim())
                .filter(|text| !text.is_empty())
        };
        let (source, named) = match (of("node"), of("code")) {
            (Some(node), _) => (Source::Public(node.to_owned()), None),
            (None, Some(code)) => {
                let given = invite::read(code, lang)?;
                (given.source, given.control)
            }
            (None, None) => return Err(Error::NoCode),
        };
        let control = self.control(of("control").or(named.as_deref()))?;
        let access = source.access(&control).await?;
        Ok(Way {
            control,
            source,
            access,
        })
    }
}

pub(super) async fn connect(
    State(serve): State<Arc<Serve>>,
    Spoken(lang): Spoken,
    Form(form): Form<Many>,
) -> Response {
    let of = |name: &str| first(&form, name);
    if let Some(refused) = serve.foreign(of("token")) {
        return refused;
    }
    let Some(way) = of("way").and_then(|id| serve.looked.find(id)) else {
        let again = say!(
            lang,
            "this was looked up too long ago: look it up again",
            "查询已过期：请重新查询"
        );
        return serve.page(lang, Some(&Error::Usage(again)), None).await;
    };
    let access = way.access.clone();
    let opened = async {
        let wanted = wanted(&form, lang)?;
        let insecure = serve.options.insecure_http;
        let asked = Asked::new(&way.control, insecure, &way.source, wanted);
        let remember = of("remember").is_some();
        serve
            .connections
            .open(asked, Some(way.access.clone()), remember, lang)
            .await
    };
    match opened.await {
        Ok(id) => {
            serve.connections.settled(&id, SETTLES).await;
            back(lang)
        }
        Err(error) => {
            let chosen = serve.chosen(of("way").unwrap_or_default().to_owned(), access);
            serve.page(lang, Some(&error), Some(chosen)).await
        }
    }
}

/// What is to be exposed: the services that were ticked, and what was typed.
fn wanted(form: &Many, lang: Lang) -> Result<Vec<Wanted>, Error> {
    let of = |name: &str| first(form, name).map(str::trim);
    let unreadable = || {
        Error::Usage(say!(
            lang,
            "the service cannot be read: write a port or host:port",
            "无法识别服务：请写端口或 主机:端口"
        ))
    };
    let protocol = |text: &str| match text {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => Err(unreadable()),
    };
    let mut wanted = Vec::new();
    for (_, ticked) in form.iter().filter(|(field, _)| field == "service") {
        let (kind, local) = ticked.split_once(' ').ok_or_else(unreadable)?;
        wanted.push(Wanted::new(protocol(kind)?, local, 0));
    }
    if let Some(typed) = of("local").filter(|typed| !typed.is_empty()) {
        let port = match of("remote_port").filter(|port| !port.is_empty()) {
            Some(port) => port.parse().map_err(|_| {
                Error::Usage(say!(
                    lang,
                    "the public port is a number up to 65535",
                    "公网端口是不超过 65535 的数字"
                ))
            })?,
            None => 0,
        };
        wanted.push(Wanted::new(
            protocol(of("type").unwrap_or("tcp"))?,
            typed,
            port,
        ));
    }
    Ok(wanted)
}

pub(super) async fn stop(
    State(serve): State<Arc<Serve>>,
    Spoken(lang): Spoken,
    Form(form): Form<Fields>,
) -> Response {
    if let Some(refused) = serve.foreign(form.get("token").map(String::as_str)) {
        return refused;
    }
    let id = form.get("id").map(String::as_str).unwrap_or_default();
    match serve.connections.stop(id).await {
        Ok(_) => back(lang),
        Err(error) => serve.page(lang, Some(&error), None).await,
    }
}

/// The tunnels from before: opens them, or forgets them.
pub(super) async fn restore(
    State(serve): State<Arc<Serve>>,
    Spoken(lang): Spoken,
    Form(form): Form<Fields>,
) -> Response {
    if let Some(refused) = serve.foreign(form.get("token").map(String::as_str)) {
        return refused;
    }
    let failed = if form.contains_key("forget") {
        serve.connections.forget().await.err()
    } else {
        serve
            .connections
            .restore(lang)
            .await
            .into_iter()
            .next()
            .map(|(_, error)| error)
    };
    match failed {
        None => back(lang),
        Some(error) => serve.page(lang, Some(&error), None).await,
    }
}

/// A tunnel's public address as a QR code.
pub(super) async fn qr(
    State(serve): State<Arc<Serve>>,
    Path((id, proxy)): Path<(String, String)>,
    Spoken(lang): Spoken,
) -> Response {
    let found = serve.connections.one(&id).await;
    let proxies = found.map(|found| found.tunnel.proxies).unwrap_or_default();
    let address = proxies
        .into_iter()
        .find(|one| one.name == proxy)
        .and_then(|one| one.address);
    let Some(address) = address else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let Ok(code) = qrcode::QrCode::new(&address) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let svg = code
        .render::<qrcode::render::svg::Color>()
        .min_dimensions(240, 240)
        .build();
    let svg = svg
        .split_once("?>")
        .map_or(svg.as_str(), |(_, svg)| svg)
        .to_owned();
    let page = Qr {
        page: frame(lang, ""),
        address,
        svg,
    };
    render(StatusCode::OK, &page)
}
