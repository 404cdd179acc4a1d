//! `POST /oauth/token`: OAuth2 client credentials (RFC 6749, 4.4), so that a stock frpc fetches
//! its tickets by itself. The client secret is the invite code, or `public:NODE`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use totoro_api::wire::invite::{AccessToken, OauthError};
use totoro_api::{Reason, Refusal};
use utoipa::openapi::{ContentBuilder, schema::ObjectBuilder};
use warp::http::StatusCode;
use warp::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::reply::Response;

use super::about::{About, Who, string};
use super::incoming::{BODY_LIMIT, Incoming};
use super::problem::ApiError;
use super::route::{Route, at, plain};
use super::{Answer, Api, reply};
use crate::app::holder::Visitor;

pub(super) fn routes(api: &Arc<Api>) -> Route {
    plain(api, at!(post, "oauth" / "token"), asking(), token)
}

fn asking() -> About {
    let form = ObjectBuilder::new()
        .property(
            "grant_type",
            string().enum_values(Some(["client_credentials"])),
        )
        .required("grant_type")
        .property("client_id", string().examples(["totoro"]))
        .property(
            "client_secret",
            string().description(Some(
                "The invite's code, or `public:` and a public node's id.",
            )),
        );
    let form = ContentBuilder::new()
        .schema(Some(form))
        .example(Some(serde_json::json!({
            "grant_type": "client_credentials",
            "client_id": "totoro",
            "client_secret": "tn1-0123-4567-89ab-cdef-ghjk-0",
        })));
    let retry = "Seconds until it is worth another try.";
    let mut about = About::new(Who::Frpc, "A ticket, in OAuth2's form")
        .says("Client credentials (RFC 6749, 4.4), so that a stock frpc fetches its tickets by itself: \
               in the form or as Basic, which comes first. What else a form has is ignored. \
               `error_description` is the line that frpc prints, with the reason and the next step.")
        .takes("application/x-www-form-urlencoded", BODY_LIMIT, form)
        .answer::<AccessToken>(200, "The ticket.")
        .answer::<OauthError>(400, "`invalid_request` or `unsupported_grant_type`.")
        .answer::<OauthError>(401, "`invalid_client`: whatever is wrong with the code or what it grants.")
        .answer::<OauthError>(408, "`invalid_request`: the body came too slowly.")
        .answer::<OauthError>(413, "`invalid_request`: the body is too large.")
        .answer::<OauthError>(429, "`temporarily_unavailable`: too many requests from this address.")
        .answer::<OauthError>(500, "`server_error`.")
        .answer::<OauthError>(503, "`temporarily_unavailable`: the node is away, full or draining.")
        .tells(401, "WWW-Authenticate", "How to authenticate.")
        .tells(429, "Retry-After", retry)
        .tells(503, "Retry-After", retry);
    about.refusals.clear();
    about
}

async fn token(api: Arc<Api>, mut incoming: Incoming) -> Answer {
    if let Err(limited) = api.limiters.token.check(incoming.address()) {
        return Ok(refused(&limited));
    }
    let body = match incoming.bytes(BODY_LIMIT).await {
        Ok(body) => body,
        Err(error) => return Ok(refused(&error)),
    };
    let asked = match Asked::read(&body, incoming.authorization("basic")) {
        Ok(asked) => asked,
        Err((error, description)) => {
            return Ok(error_of(StatusCode::BAD_REQUEST, error, description));
        }
    };
    if let Err(limited) = api.check_code(&incoming, &asked.secret) {
        return Ok(refused(&limited));
    }
    let visitor = Visitor {
        address: incoming.address(),
        request_id: incoming.request_id(),
    };
    Ok(match api.app.oauth_ticket(&asked.secret, visitor).await {
        Ok(issued) => {
            let life = issued.life_s();
            let token_type = "Bearer".to_owned();
            reply::ok(&AccessToken {
                access_token: issued.ticket,
                token_type,
                expires_in: life,
            })
        }
        Err(failure) => refused(&ApiError::from(failure)),
    })
}

/// A refusal in OAuth's form, with the line that frpc prints.
fn refused(error: &ApiError) -> Response {
    let reason = error.refusal.reason;
    let (status, code) = match error.status {
        status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
            (status, "temporarily_unavailable")
        }
        status @ StatusCode::INTERNAL_SERVER_ERROR => (status, "server_error"),
        status @ (StatusCode::BAD_REQUEST
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::PAYLOAD_TOO_LARGE) => (status, "invalid_request"),
        // Whatever is wrong with the secret or what it grants.
        _ => (StatusCode::UNAUTHORIZED, "invalid_client"),
    };
    let mut response = error_of(status, code, error.refusal.to_string());
    // For log and figures.
    response.extensions_mut().insert(reason);
    if let Some(seconds) = error.retry_after {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn error_of(status: StatusCode, error: &str, error_description: String) -> Response {
    // RFC 6749 allows printable ASCII without quotes and backslashes here.
    let plain = |symbol: char| match symbol {
        '"' | '\\' => '\'',
        ' '..='~' => symbol,
        _ => '?',
    };
    let error_description = error_description.chars().map(plain).collect();
    let body = OauthError {
        error: error.to_owned(),
        error_description,
    };
    let mut response = reply::with(status, &body);
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(
            WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"totoro\""),
        );
    }
    response
}

/// What a client asked for.
#[derive(Debug)]
struct Asked {
    secret: String,
}

type BadRequest = (&'static str, String);

impl Asked {
    fn read(body: &[u8], basic: Option<&str>) -> Result<Self, BadRequest> {
        let line = |detail: &str| Refusal::with(Reason::RequestMalformed, detail).to_string();
        let (mut grant, mut secret) = (None, None);
        for (name, value) in form_urlencoded::parse(body) {
            let field = match &*name {
                "grant_type" => &mut grant,
                "client_secret" => &mut secret,
                // client_id, scope, audience and the rest say nothing here.
                _ => continue,
            };
            if field.replace(value.into_owned()).is_some() {
                return Err(("invalid_request", line(&format!("{name} came twice"))));
            }
        }
        match grant.as_deref() {
            Some("client_credentials") => {}
            Some(_) => {
                return Err((
                    "unsupported_grant_type",
                    line("grant_type must be client_credentials"),
                ));
            }
            None => return Err(("invalid_request", line("grant_type is missing"))),
        }
        // The header is what the client authenticates with where it sends both.
        let secret = basic
            .and_then(basic_secret)
            .or(secret)
            .filter(|secret| !secret.is_empty());
        // A client whose header cannot be read is refused like one with a wrong secret.
        Ok(Asked {
            secret: secret.unwrap_or_default(),
        })
    }
}

/// The secret of a Basic credential; RFC 6749 form-encodes both halves.
fn basic_secret(credential: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(credential).ok()?).ok()?;
    let (_, secret) = decoded.split_once(':')?;
    let encoded = format!("s={}", secret.replace('&', "%26"));
    let (_, secret) = form_urlencoded::parse(encoded.as_bytes()).next()?;
    Some(secret.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Failure;
    use crate::store::StoreError;

    #[test]
    fn both_ways_to_send_a_secret() {
        let form = b"grant_type=client_credentials&client_id=totoro&client_secret=tn1-a%2A%7E";
        assert_eq!(Asked::read(form, None).unwrap().secret, "tn1-a*~");
        let basic = STANDARD.encode("totoro:tn1-b%24%3D");
        let read = Asked::read(b"grant_type=client_credentials", Some(&basic)).unwrap();
        assert_eq!(read.secret, "tn1-b$=");
        let basic = STANDARD.encode("totoro:public%3Anode-1");
        let read = Asked::read(b"grant_type=client_credentials", Some(&basic)).unwrap();
        assert_eq!(read.secret, "public:node-1");
        let plain = STANDARD.encode("totoro:tn1-raw*~$=U");
        let read = Asked::read(b"grant_type=client_credentials", Some(&plain)).unwrap();
        assert_eq!(read.secret, "tn1-raw*~$=U");
    }

    #[test]
    fn what_oauth_calls_wrong() {
        let error = |body: &[u8]| Asked::read(body, None).map(|_| ()).unwrap_err().0;
        assert_eq!(error(b""), "invalid_request");
        assert_eq!(error(b"grant_type=password"), "unsupported_grant_type");
        assert_eq!(error(b"grant_type=a&grant_type=b"), "invalid_request");
    }

    #[test]
    fn what_is_busy_or_slow_is_no_wrong_secret() {
        let busy = ApiError::from(Failure::from(StoreError::Conflict));
        assert_eq!(refused(&busy).status(), StatusCode::SERVICE_UNAVAILABLE);
        let slow = ApiError {
            status: StatusCode::REQUEST_TIMEOUT,
            ..ApiError::malformed("the body came too slowly")
        };
        assert_eq!(refused(&slow).status(), StatusCode::REQUEST_TIMEOUT);
        let unknown = ApiError::from(Failure::from(Reason::InviteUnknown));
        assert_eq!(refused(&unknown).status(), StatusCode::UNAUTHORIZED);
    }
}
