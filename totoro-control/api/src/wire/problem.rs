//! Errors: RFC 9457 `application/problem+json`.

use serde::{Deserialize, Serialize};

use crate::Reason;

/// The body of every error of the REST API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// Where the reason is explained: `/api/v1/docs#<code>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The reason's own line.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened in this case.
    pub detail: String,
    /// The stable reason code.
    pub code: Reason,
    /// What to do next.
    pub next: String,
    /// The id to give the operator; also in the response header `x-request-id` and the logs.
    pub request_id: String,
}
