//! A restore: a backup becomes an installation. Everything that can be refused is, before the
//! first byte is written.

mod check;
mod files;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use totoro_api::wire::event::kind;

use self::check::frames;
use self::files::{close, create_segment, io, place_secret, sync_dir, write_new};
use super::backup::AUDIT;
use crate::audit::{self, Author};
use crate::config::{Config, ConfigError, Settings};
use crate::keys::{FileError, Purpose, ServerSecret, TokenKind, read_secret};
use crate::records::{AdminTokenRecord, Generation, key};
use crate::store::dump::{DumpError, Frame, Header, Summary};
use crate::store::{Loader, SledStore, SnapshotHead, Store as _, StoreError, Target, Tx};

/// Why a backup is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup itself.
    #[error("{path}: {problem}")]
    Dump {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: DumpError,
    },
    /// A file.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What the operator must decide.
    #[error("{0}")]
    Refused(String),
    /// The settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A secret file.
    #[error(transparent)]
    Secret(#[from] FileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A backup that was read to its end and is whole.
pub struct Checked {
    path: PathBuf,
    /// What it says of itself.
    pub header: Header,
    /// What is in it.
    pub summary: Summary,
    settings: String,
    secrets: Vec<(String, Vec<u8>)>,
}

/// What was restored.
#[derive(Debug, serde::Serialize)]
pub struct Restored {
    /// The settings' file.
    pub config: PathBuf,
    /// The store's directory.
    pub data_dir: PathBuf,
    /// The new incarnation.
    pub generation: u64,
    /// The admin token's file.
    pub admin_token: PathBuf,
    /// Whether keys, tokens and codes of before are still known.
    pub keys_known: bool,
}

impl Checked {
    /// Whether the secrets are in it.
    #[must_use]
    pub const fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// Makes the installation. `new_secret` accepts that keys and codes of before are lost.
    ///
    /// # Errors
    /// When the target is in use, a secret is missing or does not fit, or the disk fails. What was
    /// begun is marked as unfinished, and can be begun again.
    pub async fn restore(
        &self,
        config_file: &Path,
        new_secret: bool,
        now_ms: i64,
    ) -> Result<Restored, RestoreError> {
        let (config, own_settings) = self.config(config_file)?;
        let secret = self.secret(&config.secrets_dir, new_secret)?;
        let target = Target::claim(&config.data_dir)?;

        for (name, bytes) in &self.secrets {
            place_secret(&config.secrets_dir.join(name), bytes)?;
        }
        let secret = match secret {
            Some(secret) => secret,
            None => {
                let secret = ServerSecret::generate();
                place_secret(&config.secrets_dir.join("server.key"), secret.bytes())?;
                secret
            }
        };
        let admin_token = config_file.with_file_name("admin.token");
        if !admin_token.exists() {
            let token = format!("{}\n", TokenKind::Admin.generate());
            place_secret(&admin_token, token.as_bytes())?;
        }
        let token = read_secret(&admin_token)?;
        let token = String::from_utf8_lossy(&token).trim().to_owned();

        let staging = target.staging();
        self.load(&staging)?;
        let store = SledStore::open(&staging, u64::from(config.cache_mib) << 20)?;
        let now = u64::try_from(now_ms).unwrap_or(0);
        // Newer than the one it replaces, whatever the clock says.
        let generation = now.max(self.header.generation + 1);
        let mut tx = Tx::new(&store);
        tx.put(key::GENERATION, &Generation { generation })?;
        let hash = secret.hash_hex(Purpose::Admin, &token);
        let record = key::admin_token(&hash);
        if tx.get::<AdminTokenRecord>(&record)?.is_none() {
            tx.put(&record, &AdminTokenRecord::first("restore"))?;
        }
        let Header {
            revision,
            created_at,
            ..
        } = self.header;
        let detail = json!({
            "generation": generation,
            "backup_of": totoro_api::ticket::rfc3339(created_at),
            "backup_revision": revision,
        });
        let event = Author::system().event(kind::ADMIN_RESTORED).detail(detail);
        audit::record(&mut tx, event, now_ms)?;
        store.commit(tx.into_commit()).await?;
        store.close().await;
        drop(store);
        target.finish()?;

        // Last, as `init` does: that it is there says that the rest is.
        if let Some(text) = own_settings {
            write_new(config_file, text.as_bytes())?;
        }
        Ok(Restored {
            config: config_file.to_owned(),
            data_dir: config.data_dir,
            generation,
            admin_token,
            keys_known: secret.check() == self.header.secret_check,
        })
    }

    /// The settings: the target's own, or those of the backup with directories beside the file,
    /// and then the text to write.
    fn config(&self, file: &Path) -> Result<(Config, Option<String>), RestoreError> {
        if file.exists() {
            return Ok((Config::load(file, &Settings::default())?, None));
        }
        let parsed: Config = toml::from_str(&self.settings).map_err(|error| {
            RestoreError::Refused(format!(
                "the settings in the backup cannot be read: write {} first. {error}",
                file.display()
            ))
        })?;
        let mut config = Config::new(parsed.listen, parsed.public_url.clone());
        let (data, secrets) = (config.data_dir, config.secrets_dir);
        config = Config {
            data_dir: data.clone(),
            secrets_dir: secrets.clone(),
            ..parsed
        };
        config.check()?;
        let text = toml::to_string(&config).map_err(|error| {
            RestoreError::Refused(format!("the settings cannot be written: {error}"))
        })?;
        let dir = file.parent().unwrap_or(Path::new("."));
        config.data_dir = dir.join(data);
        config.secrets_dir = dir.join(secrets);
        Ok((config, Some(text)))
    }

    /// The server secret to go on with; `None` where a new one is to be made.
    fn secret(&self, dir: &Path, new: bool) -> Result<Option<ServerSecret>, RestoreError> {
        for (name, bytes) in &self.secrets {
            let path = dir.join(name);
            if path.exists() && read_secret(&path)? != *bytes {
                return Err(RestoreError::Refused(format!(
                    "{} is not the one in the backup: move it away, or restore elsewhere",
                    path.display()
                )));
            }
        }
        let path = dir.join("server.key");
        let held = self.secrets.iter().find(|(name, _)| name == "server.key");
        let secret = match held {
            Some((_, bytes)) => Some(ServerSecret::from_bytes(bytes, &self.path)?),
            None if path.exists() => Some(ServerSecret::load(&path)?),
            None => None,
        };
        let problem = match &secret {
            Some(secret) if secret.check() == self.header.secret_check => {
                return Ok(Some(secret.clone()));
            }
            Some(_) => format!("{} is not the one it was made under", path.display()),
            None => format!("it is not in {} either", dir.display()),
        };
        if new {
            return Ok(secret);
        }
        Err(RestoreError::Refused(format!(
            "the backup was made without secrets, and the server secret is missing: {problem}.\n  \
             Put the old server.key there, mode 0600; or give --new-secret, and then no node key, \
             invite code or admin token of before works any more: enrol every node and rotate \
             every invite again"
        )))
    }

    /// Entries and segments into the staging directory.
    fn load(&self, staging: &Path) -> Result<(), RestoreError> {
        let mut loader = Loader::create(staging)?;
        let mut segment: Option<(PathBuf, File)> = None;
        let summary = frames(&self.path, |frame| {
            match frame {
                Frame::Entry(entry) => loader.put(&entry)?,
                Frame::File(name) => {
                    close(segment.take())?;
                    if name.split('/').next() == Some(AUDIT) && name != AUDIT {
                        segment = Some(create_segment(staging, &name)?);
                    }
                }
                Frame::Data(piece) => {
                    if let Some((path, file)) = &mut segment {
                        file.write_all(&piece).map_err(io("write", path))?;
                    }
                }
                Frame::Header(_) | Frame::End(_) => {}
            }
            Ok(())
        })?;
        close(segment)?;
        if summary != self.summary {
            return Err(RestoreError::Refused(format!(
                "{} has changed while it was read",
                self.path.display()
            )));
        }
        let audit = staging.join(AUDIT);
        if audit.exists() {
            sync_dir(&audit)?;
        }
        let Header {
            schema,
            revision,
            day,
            ..
        } = self.header;
        Ok(loader.finish(SnapshotHead {
            schema,
            revision,
            day,
        })?)
    }
}
