//! What a call is, as its route declares it: who may call, what it takes, what it answers. The
//! document of the API is made of these once, at the start.

use std::collections::BTreeMap;

use serde::Serialize;
use totoro_api::Reason;
use totoro_api::reason::Lang;
use utoipa::ToSchema;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{
    ContentBuilder, Ref, RefOr, Required, Response, ResponseBuilder, header::HeaderBuilder,
};
use warp::http::StatusCode;

use super::Scope;
use super::incoming::PAGE;
use super::problem::status_of;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Nobody is asked who they are.
    Anyone,
    /// The same, of people with a browser.
    Person,
    /// The same, of programs that watch this one.
    Machine,
    /// Whoever has an invite's code, which travels in the body.
    Holder,
    /// A stock frpc, as an OAuth client.
    Frpc,
    /// A node's daemon before it has a key, with its enrolment token.
    Newcomer,
    /// A node's key.
    Node,
    /// A stock frps with its node's key.
    Frps,
    /// An admin's token.
    Admin,
}

impl From<Scope> for Who {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Node => Who::Node,
            Scope::Admin => Who::Admin,
        }
    }
}

/// A component of the document.
pub(super) type Named = (String, RefOr<Schema>);

/// One call.
#[derive(Clone)]
pub(super) struct About {
    pub(super) who: Who,
    pub(super) summary: &'static str,
    pub(super) text: &'static str,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<RequestBody>,
    pub(super) answers: BTreeMap<u16, Response>,
    /// Status and reason of each refusal beyond those that every such call has.
    pub(super) refusals: Vec<(StatusCode, Reason)>,
    pub(super) schemas: Vec<Named>,
}

impl About {
    /// A call and its summary.
    pub(super) fn new(who: impl Into<Who>, summary: &'static str) -> Self {
        About {
            who: who.into(),
            summary,
            text: "",
            parameters: Vec::new(),
            body: None,
            answers: BTreeMap::new(),
            refusals: Vec::new(),
            schemas: Vec::new(),
        }
    }

    /// What else there is to know.
    pub(super) fn says(mut self, text: &'static str) -> Self {
        self.text = text;
        self
    }

    /// A parameter of the query, which may be absent.
    pub(super) fn query(
        mut self,
        name: &str,
        text: &str,
        schema: impl Into<RefOr<Schema>>,
    ) -> Self {
        let query = parameter(ParameterIn::Query, name, text, schema);
        self.parameters.push(query.build());
        self.refuses(&[Reason::RequestMalformed])
    }

    /// A header of the request, which may be absent.
    pub(super) fn header(
        mut self,
        name: &str,
        text: &str,
        schema: impl Into<RefOr<Schema>>,
    ) -> Self {
        let header = parameter(ParameterIn::Header, name, text, schema);
        self.parameters.push(header.build());
        self
    }

    /// A list that comes in pages. `cursor` is what the page before said in `next`.
    pub(super) fn paged(self, cursor: impl Into<RefOr<Schema>>) -> Self {
        let limit = integer(1, PAGE.0);
        self.query(
            "cursor",
            "Where to go on: `next` of the page before.",
            cursor,
        )
        .query("limit", "Entries at most; 100 when absent.", limit)
    }

    /// A list of which admins may ask for one node's part.
    pub(super) fn of_node(self) -> Self {
        let text = "A node's id or name: only what is on it. A node's key may name its own alone.";
        self.query("node", text, string())
            .refuses(&[Reason::NodeUnknown])
    }

    /// What is done on one node, which admins name.
    pub(super) fn on_node(mut self) -> Self {
        if self.who != Who::Admin {
            return self.of_node();
        }
        let query = parameter(
            ParameterIn::Query,
            "node",
            "The node's id or name.",
            string(),
        );
        self.parameters.push(query.required(Required::True).build());
        self.refuses(&[Reason::RequestMalformed, Reason::NodeUnknown])
    }

    /// A change of the version that the caller saw.
    pub(super) fn if_match(mut self) -> Self {
        let text = "The version that you saw, as the ETag says it, or `*` for whichever there is.";
        let tag = string().pattern(Some(r#"^(\*|(W/)?"[0-9]{1,19}")$"#));
        let header = parameter(
            ParameterIn::Header,
            "If-Match",
            text,
            tag.examples(["\"17\""]),
        );
        self.parameters
            .push(header.required(Required::True).build());
        self.refused(StatusCode::PRECONDITION_FAILED, Reason::Conflict)
            .refused(StatusCode::PRECONDITION_REQUIRED, Reason::RequestMalformed)
            .refuses(&[Reason::RequestMalformed])
    }

    /// A call that does the same once, however often it comes with the same key.
    pub(super) fn idempotent(self) -> Self {
        let text = "Your name for this request, kept 24 hours: a repeat under it answers what the \
                    first did, and another request under it is a `conflict`.";
        let key = string().pattern(Some("^[!-~]{1,128}$"));
        self.header("Idempotency-Key", text, key)
            .refuses(&[Reason::RequestMalformed, Reason::Conflict])
    }

    /// A JSON body of at most so many bytes, with an example that is one.
    pub(super) fn body<T: ToSchema + Serialize>(self, limit: usize, example: &T) -> Self {
        let content = ContentBuilder::new()
            .schema(Some(reference::<T>()))
            .example(serde_json::to_value(example).ok());
        self.with::<T>().takes("application/json", limit, content)
    }

    /// A body of another kind.
    pub(super) fn takes(mut self, media: &str, limit: usize, content: ContentBuilder) -> Self {
        let body = RequestBodyBuilder::new()
            .description(Some(format!("At most {} KiB.", limit / 1024)))
            .required(Some(Required::True))
            .content(media, content.build());
        self.body = Some(body.build());
        self.refused(StatusCode::REQUEST_TIMEOUT, Reason::RequestMalformed)
            .refuses(&[Reason::RequestMalformed, Reason::RequestTooLarge])
    }

    /// An answer with JSON of this type.
    pub(super) fn answer<T: ToSchema>(self, status: u16, text: &str) -> Self {
        self.with::<T>()
            .media(status, text, "application/json", reference::<T>())
    }

    /// An answer with JSON of one of two types.
    pub(super) fn answers_either<A: ToSchema, B: ToSchema>(self, status: u16, text: &str) -> Self {
        let either = OneOfBuilder::new()
            .item(reference::<A>())
            .item(reference::<B>());
        self.with::<A>()
            .with::<B>()
            .media(status, text, "application/json", either)
    }

    /// An answer in another form; a status may have several.
    pub(super) fn media(
        mut self,
        status: u16,
        text: &str,
        media: &str,
        schema: impl Into<RefOr<Schema>>,
    ) -> Self {
        let content = ContentBuilder::new().schema(Some(schema)).build();
        self.response(status, text, |response| response.content(media, content));
        self
    }

    /// An answer without a body.
    pub(super) fn empty(mut self, status: u16, text: &str) -> Self {
        self.response(status, text, |response| response);
        self
    }

    /// A header of an answer.
    pub(super) fn tells(mut self, status: u16, name: &str, text: &str) -> Self {
        let header = HeaderBuilder::new()
            .schema(Some(string()))
            .description(Some(text));
        self.response(status, "", |response| response.header(name, header.build()));
        self
    }

    /// The answer has the version that `If-Match` wants.
    pub(super) fn versioned(self, status: u16) -> Self {
        self.tells(status, "ETag", "The version, for `If-Match`.")
    }

    /// Reasons that it may refuse for, under their usual status.
    pub(super) fn refuses(mut self, reasons: &[Reason]) -> Self {
        for &reason in reasons {
            self = self.refused(status_of(reason), reason);
        }
        self
    }

    /// A reason under another status.
    pub(super) fn refused(mut self, status: StatusCode, reason: Reason) -> Self {
        if !self.refusals.contains(&(status, reason)) {
            self.refusals.push((status, reason));
        }
        self
    }

    /// The document needs this type and those in it.
    fn with<T: ToSchema>(mut self) -> Self {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        self
    }

    fn response(
        &mut self,
        status: u16,
        text: &str,
        change: impl FnOnce(ResponseBuilder) -> ResponseBuilder,
    ) {
        let before = self.answers.remove(&status);
        let mut response = before.map_or_else(ResponseBuilder::new, Into::into);
        if !text.is_empty() {
            response = response.description(text);
        }
        self.answers.insert(status, change(response).build());
    }
}

/// The answer for all refusals under one status.
pub(super) fn problem(status: StatusCode, reasons: &[Reason]) -> Response {
    let line = |reason: &Reason| {
        let (what, next) = (reason.what(Lang::En), reason.next(Lang::En));
        format!("- `{reason}`: {what}; {next}.")
    };
    let why = match status {
        StatusCode::REQUEST_TIMEOUT => "The body came too slowly.\n\n",
        StatusCode::PRECONDITION_FAILED => "It has another version than the one that you saw.\n\n",
        StatusCode::PRECONDITION_REQUIRED => "Say in `If-Match` which version you saw.\n\n",
        StatusCode::FORBIDDEN if reasons == [Reason::NotAuthorized] => {
            "The token is right, and its scopes do not allow this.\n\n"
        }
        _ => "",
    };
    let lines: Vec<String> = reasons.iter().map(line).collect();
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
    let mut response = ResponseBuilder::new()
        .description(format!("{why}{}", lines.join("\n")))
        .content("application/problem+json", content.build());
    if status == StatusCode::UNAUTHORIZED {
        response = shared(response, "WWW-Authenticate");
    }
    if [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::SERVICE_UNAVAILABLE,
    ]
    .contains(&status)
    {
        response = shared(response, "Retry-After");
    }
    response.build()
}

/// With a header that the document describes once.
pub(super) fn shared(response: ResponseBuilder, header: &str) -> ResponseBuilder {
    response.header_ref(header, Ref::new(format!("#/components/headers/{header}")))
}

fn parameter(
    place: ParameterIn,
    name: &str,
    text: &str,
    schema: impl Into<RefOr<Schema>>,
) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(text))
        .schema(Some(schema))
}

fn reference<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}

/// A text.
pub(super) fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// A text of a form that has a name.
pub(super) fn formed(format: &str) -> ObjectBuilder {
    string().format(Some(SchemaFormat::Custom(format.to_owned())))
}

/// An integer within bounds.
pub(super) fn integer(least: usize, most: usize) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(least))
        .maximum(Some(most))
}
