//! Why a use case did not do what was asked.

use totoro_api::{Reason, Refusal};

use crate::audit::TrailError;
use crate::keys::RingError;
use crate::store::StoreError;

/// A refusal, or something that failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Refused, with a stable reason.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The token is good, but not for this. Its scopes.
    #[error("this token is for {0}: use one whose scopes allow this")]
    OutOfScope(String),
    /// The record has another version than the one that the caller saw.
    #[error("it has version {current} now")]
    Stale {
        /// Its version now.
        current: u64,
    },
    /// The caller must say which version it saw.
    #[error("say which version you saw: If-Match: \"{current}\"")]
    Unconditional {
        /// Its version now.
        current: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit trail cannot be read.
    #[error(transparent)]
    Trail(#[from] TrailError),
    /// The ticket keys failed.
    #[error(transparent)]
    Ring(#[from] RingError),
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Failure::Refused(reason.into())
    }
}

impl Failure {
    /// A refusal with the detail of this case.
    #[must_use]
    pub fn refused(reason: Reason, detail: impl Into<String>) -> Self {
        Failure::Refused(Refusal::with(reason, detail))
    }

    /// Malformed input: which field, and what is wrong with it.
    #[must_use]
    pub fn malformed(detail: impl Into<String>) -> Self {
        Failure::refused(Reason::RequestMalformed, detail)
    }

    /// The refusal, where it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Failure::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}
