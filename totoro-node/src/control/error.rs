//! Why a call of the control plane's failed.

use std::time::Duration;

use reqwest::StatusCode;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer of the control plane's came.
    #[error("{0} can't be reached")]
    Unreachable(String, #[source] Silence),
    /// The answer was an error.
    #[error("{code}: {detail}{}", if next.is_empty() { String::new() } else { format!("; {next}") })]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The reason's code, or the status where there is none.
        code: String,
        /// What happened.
        detail: String,
        /// What to do next.
        next: String,
        /// When to ask again, as `Retry-After` says.
        retry_after: Option<Duration>,
    },
    /// The answer was not what it should be.
    #[error("{0} answered something else than expected")]
    Unreadable(String, #[source] anyhow::Error),
}

/// Why the control plane was not heard.
#[derive(Debug, thiserror::Error)]
pub enum Silence {
    /// Nobody was.
    #[error(transparent)]
    Nobody(#[from] reqwest::Error),
    /// Something in front of it says that it is not there: every error of its own has a problem for a body.
    #[error(
        "HTTP {status} of something in front of it, as of a reverse proxy with nobody behind it"
    )]
    InFront {
        /// The HTTP status.
        status: StatusCode,
        /// When to ask again, as `Retry-After` says.
        retry_after: Option<Duration>,
    },
}

impl CallError {
    /// When to ask again, as `Retry-After` says.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            CallError::Refused { retry_after, .. }
            | CallError::Unreachable(_, Silence::InFront { retry_after, .. }) => *retry_after,
            CallError::Unreachable(_, Silence::Nobody(_)) | CallError::Unreadable(..) => None,
        }
    }
}
