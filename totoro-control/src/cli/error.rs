//! What a command ends with when it does not succeed.

use totoro_api::Reason;
use totoro_api::wire::problem::Problem;

use crate::app::StartError;
use crate::app::backup::BackupError;
use crate::app::restore::RestoreError;
use crate::audit::TrailError;
use crate::config::ConfigError;
use crate::http::{ServerError, TlsError};
use crate::keys::{FileError, RingError};
use crate::store::StoreError;
use crate::store::dump::DumpError;

/// Why a command failed. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error("cannot reach {url}")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{}: {}\n  next: {} (request {})", .0.code, .0.detail, .0.next, .0.request_id)]
    Refused(Box<Problem>),
    #[error(transparent)]
    Write(#[from] std::io::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Secret(#[from] FileError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Trail(#[from] TrailError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error("what came is no whole backup")]
    Dump(#[from] DumpError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl CliError {
    /// 1 refused or failed, 2 usage, 3 not reached, 4 not authorised.
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            CliError::Usage(_) => 2,
            CliError::Unreachable { .. } => 3,
            CliError::Refused(problem)
                if problem.status == 401 || matches!(problem.code, Reason::NotAuthorized) =>
            {
                4
            }
            _ => 1,
        }
    }
}
