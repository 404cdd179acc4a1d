//! A request as handlers see it: the body is read when a handler asks for it, within its limit, so
//! nobody who is not authorised makes us hold a large one.

use std::borrow::Cow;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use serde::de::DeserializeOwned;
use totoro_api::Reason;
use warp::Filter as _;
use warp::filters::BoxedFilter;
use warp::http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HeaderName, IF_MATCH};
use warp::http::{HeaderMap, Method, StatusCode, Uri};

use super::json::{parse, shown};
use super::problem::ApiError;
use super::scopes;
use crate::app::Failure;
use crate::app::idempotency::Idempotency;
use crate::app::invite_change::IfMatch;
use crate::app::token::Need;

/// What most bodies may be, bytes.
pub(super) const BODY_LIMIT: usize = 64 * 1024;
/// What programs send in batches: events, and heartbeats with every tenant in them, bytes.
pub(super) const BATCH_LIMIT: usize = 1024 * 1024;
/// How long a body may take.
const BODY_TIME: Duration = Duration::from_secs(15);
/// How much of a body that is too large is read and dropped, bytes and time: a client that is still
/// sending when the connection closes loses the answer that says why.
const DISCARD: (usize, Duration) = (4 * 1024 * 1024, Duration::from_secs(2));
/// What is laid out for an announced body before any of it has come, bytes.
const FIRST_ROOM: usize = 4096;
/// Parameters of a query at most: no path has nearly as many.
const MAX_PARAMETERS: usize = 64;
/// The largest page of a list, and the usual one.
pub(super) const PAGE: (usize, usize) = (1000, 100);

/// A request but for its body; set before warp sees it. Its headers and query may be secret, so it
/// has no `Debug`.
pub(super) struct Origin {
    /// The client's address, v4-mapped ones as IPv4.
    pub(super) client: IpAddr,
    pub(super) request_id: String,
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Taken from the request: nothing on the way to the handler needs them.
    pub(super) headers: HeaderMap,
}

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// A request.
pub(super) struct Incoming {
    origin: Arc<Origin>,
    body: Body,
}

/// The filter that makes one.
pub(super) fn incoming() -> BoxedFilter<(Incoming,)> {
    warp::ext::get::<Arc<Origin>>()
        .and(warp::body::stream())
        .map(|origin, body: _| {
            let body = boxed(body);
            Incoming { origin, body }
        })
        .boxed()
}

fn boxed(body: impl Stream<Item = Result<impl bytes::Buf, warp::Error>> + Send + 'static) -> Body {
    Box::pin(body.map(|part| part.map(|mut part| part.copy_to_bytes(part.remaining()))))
}

impl Incoming {
    /// The client's address, v4-mapped ones as IPv4.
    pub(super) fn address(&self) -> IpAddr {
        self.origin.client
    }

    /// The request's id.
    pub(super) fn request_id(&self) -> &str {
        &self.origin.request_id
    }

    /// What the request needs of an admin's token.
    pub(super) fn need(&self) -> Need {
        scopes::need(&self.origin.method, self.origin.uri.path())
    }

    /// The credential of `Authorization: Bearer`.
    pub(super) fn bearer(&self) -> Option<&str> {
        self.authorization("bearer")
    }

    /// What follows a scheme in `Authorization`.
    pub(super) fn authorization(&self, scheme: &str) -> Option<&str> {
        let value = self.origin.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (named, rest) = value.split_once(' ')?;
        named.eq_ignore_ascii_case(scheme).then(|| rest.trim())
    }

    /// A header that is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.origin.headers.get(name)?.to_str().ok()
    }

    /// Whether the client asks for this media type by name.
    pub(super) fn accepts(&self, media: &str) -> bool {
        self.names(&ACCEPT, media)
    }

    /// Whether a header that is a list has this in it.
    pub(super) fn names(&self, header: &HeaderName, wanted: &str) -> bool {
        let named = |value: &str| {
            value.split(',').any(|one| {
                let one = one.split(';').next().unwrap_or_default();
                one.trim().eq_ignore_ascii_case(wanted)
            })
        };
        let mut values = self.origin.headers.get_all(header).into_iter();
        values.any(|value| value.to_str().is_ok_and(named))
    }

    /// The `Idempotency-Key` of this request: what is asked, and its body.
    pub(super) fn idempotency<'a>(
        &'a self,
        request: &'a str,
    ) -> Result<Option<Idempotency<'a>>, ApiError> {
        let Some(value) = self.origin.headers.get("idempotency-key") else {
            return Ok(None);
        };
        let bad = |_| ApiError::malformed("Idempotency-Key: printable ASCII only");
        let key = value.to_str().map_err(bad)?;
        Ok(Some(Idempotency { key, request }))
    }

    /// What a change of something asks for: of what, of which version of it, and the body.
    pub(super) fn asked(&self, body: &str) -> String {
        let Origin { method, uri, .. } = &*self.origin;
        let (path, query) = (uri.path(), uri.query().unwrap_or_default());
        let version = self.header("if-match").unwrap_or_default();
        format!("{method} {path}?{query}\n{version}\n{body}")
    }

    /// The version that the client saw: `If-Match: "17"` or `*`.
    pub(super) fn if_match(&self) -> Result<IfMatch, ApiError> {
        let Some(value) = self.origin.headers.get(IF_MATCH) else {
            return Ok(IfMatch::Absent);
        };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(IfMatch::Any);
        }
        // Ours are strong, so a weak one can match none of them.
        if text.starts_with("W/\"") && text.ends_with('"') {
            return Ok(IfMatch::Weak);
        }
        let quoted = text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        let version = quoted.and_then(|text| text.parse().ok());
        let bad = || ApiError::malformed("If-Match: quote the version, as the ETag does: \"17\"");
        version.map(IfMatch::Version).ok_or_else(bad)
    }

    /// The query's parameters.
    pub(super) fn query(&self) -> Result<Query<'_>, ApiError> {
        let mut values = Vec::<(Cow<'_, str>, Cow<'_, str>)>::new();
        let query = self.origin.uri.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            // What the decoder puts where the text is no UTF-8.
            if [&name, &value].iter().any(|text| text.contains('\u{fffd}')) {
                return Err(ApiError::malformed("query: is not UTF-8"));
            }
            if values.len() == MAX_PARAMETERS {
                let detail = format!("query: more than {MAX_PARAMETERS} parameters");
                return Err(ApiError::malformed(detail));
            }
            if values.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::malformed(format!(
                    "query: {} twice",
                    shown(&name)
                )));
            }
            values.push((name, value));
        }
        Ok(Query { values })
    }

    /// The whole body, at most `limit` bytes.
    pub(super) async fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, ApiError> {
        let announced = self
            .origin
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|text| text.to_str().ok()?.parse().ok());
        let mut fits = announced.is_none_or(|length: u64| length <= limit as u64);
        let room = announced.map_or(0, |length| usize::try_from(length).unwrap_or(limit));
        let mut whole = Vec::with_capacity(room.min(FIRST_ROOM).min(limit));
        let in_time = {
            let mut read = pin!(async {
                while fits && let Some(part) = self.body.next().await {
                    let part = part.map_err(|_| ApiError::malformed("the body ended early"))?;
                    fits = whole.len() + part.len() <= limit;
                    if fits {
                        whole.extend_from_slice(&part);
                    }
                }
                Ok(fits)
            });
            // Mostly it has come with the headers. A timer is large and aligned to 128 bytes, and so
            // is every future with one in it, for which memory is slow to find.
            match read.as_mut().now_or_never() {
                Some(read) => Ok(read),
                None => Box::pin(tokio::time::timeout(BODY_TIME, read)).await,
            }
        };
        match in_time {
            Ok(Ok(true)) => Ok(whole),
            Ok(Ok(false)) => {
                self.discard().await;
                let detail = format!("the body is larger than {limit} bytes");
                Err(Failure::refused(Reason::RequestTooLarge, detail).into())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ApiError {
                status: StatusCode::REQUEST_TIMEOUT,
                ..ApiError::malformed("the body came too slowly")
            }),
        }
    }

    /// Reads on and drops it, within limits.
    async fn discard(&mut self) {
        let drop_it = async {
            let mut dropped = 0;
            while dropped < DISCARD.0
                && let Some(Ok(part)) = self.body.next().await
            {
                dropped += part.len();
            }
        };
        let _ = Box::pin(tokio::time::timeout(DISCARD.1, drop_it)).await;
    }

    /// The body as JSON.
    pub(super) async fn json<T: DeserializeOwned>(&mut self, limit: usize) -> Result<T, ApiError> {
        Ok(self.json_and_size(limit).await?.0)
    }

    /// The body as JSON, and how many bytes it was.
    pub(super) async fn json_and_size<T: DeserializeOwned>(
        &mut self,
        limit: usize,
    ) -> Result<(T, usize), ApiError> {
        let body = self.bytes(limit).await?;
        let value =
            parse(&body).map_err(|problem| ApiError::malformed(format!("body: {problem}")))?;
        Ok((value, body.len()))
    }

    /// The body as JSON, and as it came.
    pub(super) async fn json_and_text<T: DeserializeOwned>(
        &mut self,
        limit: usize,
    ) -> Result<(T, String), ApiError> {
        let body = self.bytes(limit).await?;
        let value =
            parse(&body).map_err(|problem| ApiError::malformed(format!("body: {problem}")))?;
        Ok((value, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// A query's parameters, taken one by one; [`Query::done`] names those that nobody took.
pub(super) struct Query<'a> {
    values: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl Query<'_> {
    /// A parameter, where it is there.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.values.iter().position(|(known, _)| known == name)?;
        Some(self.values.swap_remove(at).1.into_owned())
    }

    /// A parameter of another type.
    pub(super) fn parse<T: std::str::FromStr>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let bad = |_| ApiError::malformed(format!("query: {name} cannot be read"));
        text.parse().map(Some).map_err(bad)
    }

    /// A page's size.
    pub(super) fn limit(&mut self) -> Result<usize, ApiError> {
        match self.parse::<usize>("limit")? {
            None => Ok(PAGE.1),
            Some(limit) if (1..=PAGE.0).contains(&limit) => Ok(limit),
            Some(_) => Err(ApiError::malformed(format!(
                "query: limit must be 1 to {}",
                PAGE.0
            ))),
        }
    }

    /// Refuses what nobody took.
    pub(super) fn done(self) -> Result<(), ApiError> {
        match self.values.first() {
            Some((name, _)) => Err(ApiError::malformed(format!(
                "query: unknown field {}",
                shown(name)
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_takes_no_timer_along() {
        let mut incoming = Incoming {
            origin: Arc::new(Origin {
                client: IpAddr::from([192, 0, 2, 1]),
                request_id: String::new(),
                method: Method::POST,
                uri: Uri::from_static("/"),
                headers: HeaderMap::new(),
            }),
            body: Box::pin(futures_util::stream::iter([Ok(Bytes::from_static(b"x"))])),
        };
        let reading = incoming.bytes(1);
        assert!(align_of_val(&reading) <= 16, "slow to find memory for");
        let read = reading.now_or_never().and_then(Result::ok);
        assert_eq!(read.as_deref(), Some(&b"x"[..]));
    }
}
