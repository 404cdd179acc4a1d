//! Errors as RFC 9457 problems. One function maps a reason to a status; one place writes the body.
//!
//! Who acts on what: 400, 413, 422 the caller's program; 401 whoever holds the key; 403 the lender;
//! 404 the caller; 408 who sends too slowly; 409, 412, 428 the caller, after reading again; 429 and 503 anyone, later;
//! 500 the operator.

use totoro_api::reason::Lang;
use totoro_api::wire::problem::Problem;
use totoro_api::{Reason, Refusal};
use warp::http::StatusCode;
use warp::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::reply::{Reply as _, Response};

use super::docs::PAGE;
use super::reply::no_store;
use crate::app::Failure;
use crate::store::StoreError;

/// An error on its way out. It travels as a response extension until the server, which knows the
/// request's id, writes the body.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub(super) refusal: Refusal,
    pub(super) status: StatusCode,
    /// When to come again, seconds.
    pub(super) retry_after: Option<u64>,
    /// The methods that the path has.
    pub(super) allow: Option<HeaderValue>,
}

/// The status of a refusal.
pub(super) const fn status_of(reason: Reason) -> StatusCode {
    use Reason as R;
    match reason {
        R::RequestMalformed => StatusCode::BAD_REQUEST,
        R::NotAuthorized
        | R::TicketMissing
        | R::TicketMalformed
        | R::TicketForged
        | R::TicketExpired
        | R::TicketWrongNode
        | R::TicketKeyUnknown
        | R::SessionExpired => StatusCode::UNAUTHORIZED,
        R::InviteRevoked
        | R::InviteExpired
        | R::InvitePaused
        | R::NodeDisabled
        | R::ClientBanned
        | R::ProxyTypeDenied
        | R::ProxyNameDenied
        | R::ProxyOptionDenied
        | R::PortDenied => StatusCode::FORBIDDEN,
        R::InviteUnknown | R::NodeUnknown | R::NotFound => StatusCode::NOT_FOUND,
        R::Conflict
        | R::TicketInUse
        | R::MaxClients
        | R::MaxProxies
        | R::MaxConns
        | R::MaxFlows
        | R::MaxConnsPerSource
        | R::MaxInvites
        | R::QuotaExceeded
        | R::PortInUse
        | R::PortCooling => StatusCode::CONFLICT,
        R::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        R::PortOutsidePool | R::Unsupported => StatusCode::UNPROCESSABLE_ENTITY,
        R::RateLimited | R::ConnRate => StatusCode::TOO_MANY_REQUESTS,
        R::NodeDraining | R::NodeOffline | R::PublicFull | R::NodeFull | R::PoolExhausted => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        // What only the kernel refuses for never comes here; what is new must be given its status.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl ApiError {
    /// A malformed request: what, and where.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        ApiError::from(Failure::malformed(detail))
    }

    /// Nothing is served at this path, or not by this method.
    pub(super) fn unserved(methods: Option<&str>) -> Self {
        let (refusal, status) = match methods {
            None => (
                Refusal::with(Reason::NotFound, "there is no such path"),
                StatusCode::NOT_FOUND,
            ),
            Some(_) => (
                Refusal::with(Reason::Unsupported, "this path has other methods"),
                StatusCode::METHOD_NOT_ALLOWED,
            ),
        };
        ApiError {
            refusal,
            status,
            retry_after: None,
            allow: methods.and_then(|methods| methods.parse().ok()),
        }
    }

    /// Too many requests from one address.
    pub(super) fn rate_limited(retry_after: u64) -> Self {
        ApiError {
            retry_after: Some(retry_after),
            ..ApiError::from(Failure::from(Reason::RateLimited))
        }
    }

    /// A response that carries it.
    pub(super) fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }

    /// Writes the body of a response that carries an error.
    pub(super) fn write(self, request_id: &str) -> Response {
        let ApiError {
            refusal,
            status,
            retry_after,
            allow,
        } = self;
        let reason = refusal.reason;
        let problem = Problem {
            kind: format!("{PAGE}#{reason}"),
            title: reason.what(Lang::En).to_owned(),
            status: status.as_u16(),
            detail: refusal.what().to_owned(),
            code: reason,
            next: reason.next(Lang::En).to_owned(),
            request_id: request_id.to_owned(),
        };
        let mut response =
            warp::reply::with_status(warp::reply::json(&problem), status).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        no_store(headers);
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(methods) = allow {
            headers.insert(ALLOW, methods);
        }
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let (refusal, status) = match failure {
            Failure::Refused(refusal) => {
                let status = status_of(refusal.reason);
                (refusal, status)
            }
            Failure::OutOfScope(_) => (
                Refusal::with(Reason::NotAuthorized, failure.to_string()),
                StatusCode::FORBIDDEN,
            ),
            Failure::Stale { .. } => (
                Refusal::with(Reason::Conflict, failure.to_string()),
                StatusCode::PRECONDITION_FAILED,
            ),
            Failure::Unconditional { .. } => (
                Refusal::with(Reason::RequestMalformed, failure.to_string()),
                StatusCode::PRECONDITION_REQUIRED,
            ),
            Failure::Store(StoreError::Conflict) => (
                Refusal::with(Reason::Conflict, "others change it at the same moment"),
                StatusCode::SERVICE_UNAVAILABLE,
            ),
            Failure::Store(StoreError::TooLarge(what)) => (
                Refusal::with(Reason::RequestTooLarge, format!("too much for one {what}")),
                StatusCode::PAYLOAD_TOO_LARGE,
            ),
            Failure::Store(_) | Failure::Trail(_) | Failure::Ring(_) => {
                // The chain goes to the log, once; the client gets the request id.
                tracing::error!(
                    error = &failure as &dyn std::error::Error,
                    "a request failed"
                );
                (
                    Refusal::new(Reason::Internal),
                    StatusCode::INTERNAL_SERVER_ERROR,
                )
            }
        };
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(10);
        ApiError {
            refusal,
            status,
            retry_after,
            allow: None,
        }
    }
}

impl From<crate::audit::TrailError> for ApiError {
    fn from(error: crate::audit::TrailError) -> Self {
        ApiError::from(Failure::from(error))
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        ApiError::from(Failure::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_that_can_come_here_has_its_status() {
        let kernel_only = [
            Reason::NoLease,
            Reason::ReplyOnly,
            Reason::Surplus,
            Reason::Internal,
        ];
        for &reason in Reason::ALL {
            let internal = status_of(reason) == StatusCode::INTERNAL_SERVER_ERROR;
            assert_eq!(internal, kernel_only.contains(&reason), "{reason}");
        }
    }
}
