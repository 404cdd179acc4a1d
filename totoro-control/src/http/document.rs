//! The OpenAPI document of what one address serves, made of what its routes say of themselves.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use totoro_api::Reason;
use totoro_api::wire::admin::TokenScope;
use totoro_api::wire::problem::Problem;
use utoipa::PartialSchema as _;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, Paths};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, HttpMethod, InfoBuilder, LicenseBuilder, OpenApiBuilder, Required,
    SecurityRequirement,
};
use warp::http::{Method, StatusCode};

use super::about::{About, Who, integer, problem, shared, string};
use super::route::Served;
use super::scopes;

/// What holds for every call.
const INTRODUCTION: &str = "\
What the control plane answers, all of it: a path or a method that is not here is not served.

- A refusal is a problem (RFC 9457) with a stable `code`, what happened, and what to do `next`. Codes \
mean the same in every log, event and figure.
- Every answer has `X-Request-Id`: give it to the operator when something fails.
- Where a body or a query is written by people, a field that is unknown is refused by its name. Where \
programs of another version send it, it is ignored.
- Lists come in pages: `next` of one is the `cursor` of the following.
- HEAD is answered wherever GET is. Another method than those of a path gets 405 (`unsupported`) with \
`Allow`, another path 404 (`not_found`). A request whose head is larger than 32 KiB gets 431, one \
that is no HTTP 400, both without a body.
- Times are RFC 3339 in UTC, rates bytes a second, sizes bytes.
- The wrong kind of `Content-Type` is not held against a request: a body is read as what its call \
takes.";

const NODE_KEY: &str = "node_key";
const ADMIN_TOKEN: &str = "admin_token";
const ENROLMENT: &str = "enrolment_token";
const FRPS: &str = "frps";
const CLIENT_SECRET: &str = "client_secret";

impl Who {
    /// The heading of its calls, and who that is.
    pub(super) const fn heading(self) -> (&'static str, &'static str) {
        match self {
            Who::Person => ("People", "Pages, for a browser."),
            Who::Anyone => ("Anyone", "Nobody is asked who they are."),
            Who::Holder => ("Holders of a code", "The code travels in the body."),
            Who::Frpc => ("frpc", "A stock frpc, as an OAuth client."),
            Who::Newcomer | Who::Node => ("Nodes", "A node's daemon and its lender."),
            Who::Frps => ("frps", "A stock frps without our daemon."),
            Who::Admin => (
                "Admins",
                "Everything, across nodes, within the token's scopes.",
            ),
            Who::Machine => ("Machines", "Programs that watch this one."),
        }
    }

    /// Any of these will do.
    fn credentials(self, method: &Method, path: &str) -> Vec<SecurityRequirement> {
        let of = |name: &str| SecurityRequirement::new(name, [""; 0]);
        match self {
            Who::Person | Who::Anyone | Who::Holder | Who::Machine => Vec::new(),
            Who::Frpc => vec![of(CLIENT_SECRET), SecurityRequirement::default()],
            Who::Newcomer => vec![of(ENROLMENT)],
            Who::Node => vec![of(NODE_KEY)],
            Who::Frps => vec![of(FRPS)],
            Who::Admin => {
                let need = scopes::need(method, path);
                let fits = TokenScope::EACH
                    .into_iter()
                    .filter(|&scope| need.allowed_by(scope));
                fits.map(|scope| SecurityRequirement::new(ADMIN_TOKEN, [scope.as_str()]))
                    .collect()
            }
        }
    }

    /// What every call of theirs may be refused for.
    fn refusals(self, method: &Method) -> Vec<(StatusCode, Reason)> {
        let mut refusals = Vec::new();
        // Theirs are pages too, and each says which.
        if self == Who::Person {
            return refusals;
        }
        if matches!(self, Who::Newcomer | Who::Node | Who::Frps | Who::Admin) {
            refusals.push((StatusCode::UNAUTHORIZED, Reason::NotAuthorized));
            // Who guesses keys.
            refusals.push((StatusCode::TOO_MANY_REQUESTS, Reason::RateLimited));
        }
        if self == Who::Admin {
            refusals.push((StatusCode::FORBIDDEN, Reason::NotAuthorized));
        }
        if !matches!(self, Who::Frpc | Who::Machine) {
            refusals.push((StatusCode::INTERNAL_SERVER_ERROR, Reason::Internal));
        }
        let writes = *method != Method::GET;
        if writes && !matches!(self, Who::Frpc | Who::Machine | Who::Frps) {
            refusals.push((StatusCode::SERVICE_UNAVAILABLE, Reason::Conflict));
        }
        refusals
    }
}

/// The document.
pub(super) fn of(served: &[Served]) -> Value {
    let mut paths = Paths::new();
    let mut components = ComponentsBuilder::new();
    let mut tags = BTreeMap::new();
    for Served {
        method,
        path,
        about,
    } in served
    {
        let (tag, text) = about.who.heading();
        tags.insert(tag, text);
        components = components.schemas_from_iter(about.schemas.iter().cloned());
        paths.add_path_operation(
            path,
            vec![http_method(method)],
            operation(method, path, about),
        );
    }
    components = components
        .schema("Problem", Problem::schema())
        .schema("Reason", Reason::schema())
        .header(
            "X-Request-Id",
            header("The request's id, as logs and events have it.", string()),
        )
        .header(
            "Retry-After",
            header("Seconds until it is worth another try.", integer(0, 86_400)),
        )
        .header("WWW-Authenticate", header("How to authenticate.", string()));
    let schemes = [
        (
            NODE_KEY,
            HttpAuthScheme::Bearer,
            "A node's key, which the node made itself.",
        ),
        (
            ADMIN_TOKEN,
            HttpAuthScheme::Bearer,
            "An admin's token. Each call names the scopes of which one will do.",
        ),
        (
            ENROLMENT,
            HttpAuthScheme::Bearer,
            "A node's enrolment token, good once.",
        ),
        (
            FRPS,
            HttpAuthScheme::Basic,
            "The node's name or id, and its key.",
        ),
        (
            CLIENT_SECRET,
            HttpAuthScheme::Basic,
            "Any client id, and the invite's code or `public:` and a public node's id.",
        ),
    ];
    for (name, kind, text) in schemes {
        let scheme = HttpBuilder::new().scheme(kind).description(Some(text));
        components = components.security_scheme(name, SecurityScheme::Http(scheme.build()));
    }
    let info = InfoBuilder::new()
        .title("Totoro control plane")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(INTRODUCTION))
        .license(Some(
            LicenseBuilder::new()
                .name("Apache-2.0")
                .identifier(Some("Apache-2.0"))
                .build(),
        ));
    let tags = tags
        .into_iter()
        .map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build());
    let document = OpenApiBuilder::new()
        .info(info.build())
        .paths(paths)
        .components(Some(components.build()))
        .tags(Some(tags));
    let mut document = serde_json::to_value(document.build()).unwrap_or_default();
    tidy(&mut document);
    narrow(&mut document["components"]["schemas"]);
    document
}

fn http_method(method: &Method) -> HttpMethod {
    match *method {
        Method::POST => HttpMethod::Post,
        Method::PATCH => HttpMethod::Patch,
        Method::DELETE => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn operation(method: &Method, path: &str, about: &About) -> OperationBuilder {
    let text = Some(about.text).filter(|text| !text.is_empty());
    let mut operation = OperationBuilder::new()
        .operation_id(Some(id(method, path)))
        .tag(about.who.heading().0)
        .summary(Some(about.summary))
        .description(text)
        .request_body(about.body.clone())
        .securities(Some(about.who.credentials(method, path)));
    if path.contains("{id}") {
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(string()));
        operation = operation.parameter(id);
    }
    for parameter in &about.parameters {
        operation = operation.parameter(parameter.clone());
    }
    let mut responses = about.answers.clone();
    let mut refusals: BTreeMap<u16, Vec<Reason>> = BTreeMap::new();
    let common = about.who.refusals(method);
    for &(status, reason) in about.refusals.iter().chain(&common) {
        let reasons = refusals.entry(status.as_u16()).or_default();
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    for (status, reasons) in refusals {
        let code = StatusCode::from_u16(status).unwrap_or_default();
        responses.insert(status, problem(code, &reasons));
    }
    for (status, response) in responses {
        let response = shared(response.into(), "X-Request-Id");
        operation = operation.response(status.to_string(), response);
    }
    operation
}

/// A name for a call that programs can be made of.
fn id(method: &Method, path: &str) -> String {
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let words = path.split(['/', '-', '.']).filter(|word| !word.is_empty());
    let words = words.map(|word| word.trim_matches(['{', '}']));
    let mut id = method.as_str().to_ascii_lowercase();
    for word in words {
        id.push('_');
        id.push_str(word);
    }
    if path == "/" {
        id.push_str("_page");
    }
    id
}

fn header(
    text: &str,
    schema: utoipa::openapi::schema::ObjectBuilder,
) -> utoipa::openapi::header::Header {
    HeaderBuilder::new()
        .schema(Some(schema))
        .description(Some(text))
        .build()
}

/// Makes of what is derived what a reader needs: each integer with what its type can hold, past which
/// a body cannot be read; no defaults that say nothing; no links into our source.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let integer = match members.get("format").and_then(Value::as_str) {
                Some("u-int16") => Some(("uint16", json!(0), json!(u16::MAX))),
                Some("u-int32") => Some(("uint32", json!(0), json!(u32::MAX))),
                Some("u-int64") => Some(("uint64", json!(0), json!(u64::MAX))),
                Some("int64") => Some(("int64", json!(i64::MIN), json!(i64::MAX))),
                _ => None,
            };
            if let Some((format, least, most)) = integer {
                members.insert("format".to_owned(), format.into());
                members.entry("minimum").or_insert(least);
                members.entry("maximum").or_insert(most);
            }
            members.retain(|name, member| name != "default" || !member.is_null());
            if let Some(Value::String(text)) = members.get_mut("description") {
                *text = text.replace("[`", "`").replace("`]", "`");
            }
            members.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Adds what derived schemas have no words for.
fn narrow(schemas: &mut Value) {
    let mut set = |name: &str, member: &str, value: Value| {
        if let Some(schema) = schemas.get_mut(name) {
            schema[member] = value;
        }
    };
    // What people write; checked by the handlers, since nodes take what they do not know.
    set("Limits", "additionalProperties", json!(false));
    set("PublicMax", "additionalProperties", json!(false));
    let named = |protocol: &str| json!({ "required": [protocol], "properties": { protocol: { "minItems": 1 } } });
    set("Pool", "anyOf", json!([named("tcp"), named("udp")]));
}
