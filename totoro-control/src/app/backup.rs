//! A backup: the store as it stands now, the audit segments and the settings, as one stream.
//!
//! The files are read after the snapshot was taken: a segment may hold events that are newer than
//! the store's state, never fewer. Secrets are not in it. They never leave the machine through the
//! API: a stolen admin token must not become every key and code there is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use totoro_api::Reason;
use totoro_api::wire::event::kind;

use super::{App, Caller, Failure};
use crate::config::Config;
use crate::records::{Generation, key};
use crate::store::dump::{Encoder, Header, MAX_PIECE};
use crate::store::{Snapshot, Store, StoreError, read};

/// The segments of the audit trail: a directory in the store's, and in a backup.
pub const AUDIT: &str = "audit";
/// The settings' name in a backup.
pub const SETTINGS: &str = "control.toml";
/// The secrets' directory in a backup.
pub const SECRETS: &str = "secrets";
/// Pieces on their way: the reader's pace is the backup's.
const WAITING: usize = 8;

/// Why there is no backup, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing in it.
    #[error("the store is empty: there is nothing to back up")]
    Empty,
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The settings cannot be written down.
    #[error("the settings cannot be written as TOML")]
    Settings(#[source] toml::ser::Error),
}

/// A backup's bytes as they come; after an error there are no more.
pub type Pieces = mpsc::Receiver<Result<Bytes, BackupError>>;

impl App {
    /// Begins a backup for an admin.
    ///
    /// # Errors
    /// When one is running, or the store fails.
    pub async fn backup(&self, caller: &Caller) -> Result<Pieces, Failure> {
        let begun = begin(
            Arc::clone(&self.store),
            self.config.clone(),
            self.secret.check(),
            self.now(),
        );
        let (revision, pieces) = begun.await.map_err(|error| match error {
            BackupError::Store(error @ StoreError::Busy) => {
                Failure::refused(Reason::Conflict, error.to_string())
            }
            BackupError::Store(error) => Failure::Store(error),
            other => Failure::refused(Reason::Internal, other.to_string()),
        })?;
        let event = caller.author.event(kind::ADMIN_BACKUP);
        self.record(event.detail(json!({ "revision": revision })))
            .await?;
        Ok(pieces)
    }
}

/// Takes the snapshot and begins to send it. Answers its revision.
///
/// # Errors
/// When another is running, or there is nothing to back up.
pub async fn begin(
    store: Arc<dyn Store>,
    config: Config,
    secret_check: String,
    now: i64,
) -> Result<(u64, Pieces), BackupError> {
    let snapshot = store.snapshot().await?;
    let generation = read::<Generation>(&*store, key::GENERATION)?.ok_or(BackupError::Empty)?;
    let head = snapshot.head();
    let header = Header {
        schema: head.schema,
        revision: head.revision,
        day: head.day,
        generation: generation.value.generation,
        created_at: now,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        secret_check,
    };
    let (pieces, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut sending = Sending {
            pieces,
            out: vec![],
        };
        match sending.all(header, snapshot, &config).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!("a backup's reader went away"),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a backup was given up"
                );
                let _ = sending.pieces.send(Err(error)).await;
            }
        }
    });
    Ok((head.revision, receiver))
}

struct Sending {
    pieces: mpsc::Sender<Result<Bytes, BackupError>>,
    out: Vec<u8>,
}

impl Sending {
    /// Sends all of it; false when nobody reads any more.
    async fn all(
        &mut self,
        header: Header,
        mut snapshot: Box<dyn Snapshot>,
        config: &Config,
    ) -> Result<bool, BackupError> {
        let mut encoder = Encoder::begin(&header, &mut self.out);
        while let Some(part) = snapshot.next().await? {
            for entry in &part {
                encoder.entry(entry, &mut self.out);
            }
            if !self.flush().await {
                return Ok(false);
            }
        }
        drop(snapshot);
        for (name, path) in segments(&config.data_dir.join(AUDIT))? {
            if !self.file(&mut encoder, &name, &path).await? {
                return Ok(false);
            }
        }
        encoder.file(SETTINGS, &mut self.out);
        let settings = toml::to_string(config).map_err(BackupError::Settings)?;
        for piece in settings.as_bytes().chunks(MAX_PIECE) {
            encoder.data(piece, &mut self.out);
        }
        let _ = encoder.end(&mut self.out);
        Ok(self.flush().await)
    }

    /// One segment, as long as it is when it is opened: what is appended later is for the next.
    async fn file(
        &mut self,
        encoder: &mut Encoder,
        name: &str,
        path: &Path,
    ) -> Result<bool, BackupError> {
        let failed = |source| BackupError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match tokio::fs::File::open(path).await {
            // Retention drops segments whole.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            opened => opened.map_err(failed)?,
        };
        let length = file.metadata().await.map_err(failed)?.len();
        let mut rest = file.take(length);
        encoder.file(name, &mut self.out);
        let mut piece = vec![0; MAX_PIECE];
        loop {
            match rest.read(&mut piece).await.map_err(failed)? {
                0 => return Ok(true),
                read => encoder.data(&piece[..read], &mut self.out),
            }
            if !self.flush().await {
                return Ok(false);
            }
        }
    }

    async fn flush(&mut self) -> bool {
        let piece = Bytes::from(std::mem::take(&mut self.out));
        piece.is_empty() || self.pieces.send(Ok(piece)).await.is_ok()
    }
}

/// The regular files of the trail by name, with their names in a backup; none where there is no
/// such directory.
fn segments(dir: &Path) -> Result<Vec<(String, PathBuf)>, BackupError> {
    let failed = |source| BackupError::Read {
        path: dir.to_owned(),
        source,
    };
    let listed = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in listed {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        // What begins with a dot or is still to be renamed is nobody's yet.
        let whole = |name: &&str| !name.starts_with('.') && !name.ends_with(".tmp");
        if let Some(name) = name.to_str().filter(whole)
            && entry.file_type().map_err(failed)?.is_file()
        {
            found.push((format!("{AUDIT}/{name}"), entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}
