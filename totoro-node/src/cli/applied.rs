//! The pool that was applied last: by the daemon's word, or, where none runs, by what it left.

use std::io::{self, ErrorKind};

use anyhow::{Error, Result};
use totoro_api::ports::Pool;

use crate::config::Config;
use crate::local::{Ask, NotRunning, ask};
use crate::session::stored_pool;
use crate::store::Left;

/// What a daemon left can't be read, which a start does not get past either.
#[derive(Debug, thiserror::Error)]
#[error("the state that a daemon left can't be read")]
pub(super) struct Unreadable(#[source] Error);

impl Unreadable {
    /// Why, and what to do. What is damaged says that itself.
    pub(super) fn advice(&self) -> String {
        let next = match self.0.root_cause().downcast_ref::<io::Error>() {
            Some(error) if error.kind() == ErrorKind::PermissionDenied => "; run as root",
            Some(_) => "; look at its disk (dmesg), and at `state_dir`",
            None if self.0.root_cause().is::<serde_json::Error>() => {
                "; install the version that wrote it"
            }
            None => "",
        };
        format!("{:#}{next}", self.0)
    }
}

/// Asks for it, or looks; the pool of the enrolment before the first push.
///
/// # Errors
/// A daemon that runs does not answer; or [`Unreadable`].
pub(super) async fn pool(config: &Config) -> Result<Pool> {
    match ask(&config.local_socket(), &Ask::Pool).await {
        Err(error) if error.is::<NotRunning>() => Ok(left(config)?),
        answer => answer,
    }
}

fn left(config: &Config) -> Result<Pool, Unreadable> {
    let left = Left::under(&config.state_dir);
    let pool = left.and_then(|left| stored_pool(&left, &config.pool));
    pool.map_err(Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::store::Store;

    #[tokio::test]
    async fn without_a_daemon_what_it_left_is_looked_at_and_nothing_is_made() {
        let place = tempfile::tempdir().unwrap();
        let given = Settings {
            state_dir: Some("state".into()),
            run_dir: Some("run".into()),
            ..Settings::default()
        };
        let mut config = Config::unenrolled(&place.path().join("node.toml"), given).unwrap();
        config.pool.tcp = "20000-20009".parse().unwrap();
        assert_eq!(pool(&config).await.unwrap(), config.pool);
        assert!(!config.state_dir.exists());
        // One that starts just now has the lock, and does not answer yet.
        let store = Store::open(&config.state_dir).unwrap();
        assert_eq!(pool(&config).await.unwrap(), config.pool);
        drop(store);
        // Damaged in its header.
        let log = config.state_dir.join("log.0000000001");
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[4] += 1;
        std::fs::write(&log, bytes).unwrap();
        let error = pool(&config).await.unwrap_err();
        let unreadable = error
            .downcast_ref::<Unreadable>()
            .expect("it is told apart");
        let advice = unreadable.advice();
        assert!(
            advice.contains("Put a good copy of the directory in its place"),
            "{advice}"
        );
    }
}
