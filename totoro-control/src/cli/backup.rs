//! `backup`: from a running server through its API, or from a stopped one's directory. What comes
//! is checked while it is written; only a whole backup gets its name.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use futures_util::stream::poll_fn;
use futures_util::{Stream, StreamExt as _};
use serde_json::json;
use totoro_api::wire::event::kind;
use totoro_cli::{out, print_json};

use super::{CliError, Remote};
use crate::app::backup::{SECRETS, begin};
use crate::audit::{self, Author};
use crate::config::{Config, Settings};
use crate::keys::{ServerSecret, read_secret};
use crate::store::dump::{Decoder, Encoder, Frame, MAX_PIECE, Summary};
use crate::store::{SledStore, Store, Tx};

/// What is lost without them.
const WITHOUT_SECRETS: &str = "\
without secrets: restored beside the old secrets/server.key all goes on as before. Without that
              file this backup brings back nodes, invites, bans and the trail, but no node key,
              invite code or admin token works any more: every node must be enrolled and every
              invite rotated again. Keep server.key elsewhere, or use --with-secrets.";
const WITH_SECRETS: &str = "\
with secrets: whoever reads this file can be any node and sign any ticket. Keep it encrypted.";

/// Back up the store, the audit trail and the settings into one file.
#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control backup --out /backup/totoro.bak --token-file /etc/totoro/control/admin.token
  totoro-control backup --out totoro.bak --with-secrets --config /etc/totoro/control/control.toml
  totoro-control backup --out totoro.bak --offline --config /etc/totoro/control/control.toml

Secrets are read from the machine's own files, never through the API: --with-secrets works where
the control plane runs, for whoever may read its secrets. The file has mode 0600 in any case.")]
pub(super) struct Backup {
    #[command(flatten)]
    remote: Remote,
    /// The file to write; must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Add the server secret and the signing keys.
    #[arg(long)]
    with_secrets: bool,
    /// Read a stopped server's directory instead of asking a running one.
    #[arg(long)]
    offline: bool,
    /// The settings, for --with-secrets and --offline.
    #[arg(
        long,
        env = "TOTORO_CONTROL_CONFIG",
        default_value = super::SETTINGS_FILE
    )]
    config: PathBuf,
}

impl Backup {
    pub(super) async fn run(self) -> Result<(), CliError> {
        if self.out.exists() {
            let problem = format!("{} exists; name a new file", self.out.display());
            return Err(CliError::Failed(problem));
        }
        let config = match self.with_secrets || self.offline {
            true => Some(Config::load(&self.config, &Settings::of_environment()?)?),
            false => None,
        };
        let secrets = match config.as_ref().filter(|_| self.with_secrets) {
            Some(config) => secrets(&config.secrets_dir)?,
            None => Vec::new(),
        };
        let summary = match config.filter(|_| self.offline) {
            Some(config) => self.offline(config, secrets).await?,
            None => {
                let pieces = self.remote.client()?.stream("/admin/backup").await?;
                write(&self.out, pieces, secrets).await?
            }
        };
        self.tell(&summary)
    }

    async fn offline(
        &self,
        config: Config,
        secrets: Vec<(String, Vec<u8>)>,
    ) -> Result<Summary, CliError> {
        let check = ServerSecret::load(&config.secrets_dir.join("server.key"))?.check();
        let opened = SledStore::open(&config.data_dir, u64::from(config.cache_mib) << 20)?;
        let store: Arc<dyn Store> = Arc::new(opened);
        let now = time::OffsetDateTime::now_utc();
        let now_ms = i64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let (revision, mut pieces) =
            begin(Arc::clone(&store), config, check, now.unix_timestamp()).await?;
        let mut tx = Tx::new(&*store);
        let event = Author::system().event(kind::ADMIN_BACKUP);
        let event = event.detail(json!({ "revision": revision, "offline": true }));
        audit::record(&mut tx, event, now_ms)?;
        store.commit(tx.into_commit()).await?;
        let pieces = poll_fn(move |context| pieces.poll_recv(context));
        let pieces = pieces.map(|piece| piece.map_err(CliError::from));
        let written = write(&self.out, pieces, secrets).await;
        store.close().await;
        written
    }

    fn tell(&self, summary: &Summary) -> Result<(), CliError> {
        if self.remote.json {
            return Ok(print_json(&json!({
                "file": self.out,
                "entries": summary.entries,
                "files": summary.files,
                "bytes": summary.bytes,
                "sha256": summary.sha256,
                "secrets": self.with_secrets,
            }))?);
        }
        out::line(format_args!(
            "backup        {} (mode 0600)",
            self.out.display()
        ))?;
        out::line(format_args!(
            "holds         {} entries, {} files, {} bytes",
            summary.entries, summary.files, summary.bytes
        ))?;
        out::line(format_args!("sha256        {}", summary.sha256))?;
        out::line(match self.with_secrets {
            true => WITH_SECRETS,
            false => WITHOUT_SECRETS,
        })?;
        Ok(())
    }
}

/// The server secret and the ticket keys, by their names.
fn secrets(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, CliError> {
    let failed = |error| CliError::Failed(format!("cannot list {}: {error}", dir.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if name == "server.key" || (name.starts_with("ticket-") && name.ends_with(".key")) {
            found.push((format!("{SECRETS}/{name}"), read_secret(&dir.join(&*name))?));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Writes what comes, with the secrets, and names it when it is whole and on the disk.
async fn write(
    out: &Path,
    pieces: impl Stream<Item = Result<Bytes, CliError>>,
    secrets: Vec<(String, Vec<u8>)>,
) -> Result<Summary, CliError> {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = out.with_file_name(name);
    let written = write_partial(&partial, pieces, secrets).await;
    let named = written.and_then(|summary| {
        let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty());
        std::fs::rename(&partial, out)
            .and_then(|()| File::open(dir.unwrap_or(Path::new(".")))?.sync_all())
            .map_err(|error| cannot("write", out, &error))?;
        Ok(summary)
    });
    if named.is_err() {
        // Nobody may take a part of it for a backup.
        let _ = std::fs::remove_file(&partial);
    }
    named
}

async fn write_partial(
    partial: &Path,
    pieces: impl Stream<Item = Result<Bytes, CliError>>,
    secrets: Vec<(String, Vec<u8>)>,
) -> Result<Summary, CliError> {
    if partial.symlink_metadata().is_ok() {
        std::fs::remove_file(partial).map_err(|error| cannot("remove", partial, &error))?;
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(partial)
        .map_err(|error| cannot("create", partial, &error))?;
    let mut copy = Copy::new(secrets);
    let mut pieces = pin!(pieces);
    while let Some(piece) = pieces.next().await {
        let out = copy.add(&piece?)?;
        file.write_all(&out)
            .map_err(|error| cannot("write", partial, &error))?;
    }
    let summary = copy.complete()?;
    file.sync_all()
        .map_err(|error| cannot("write", partial, &error))?;
    Ok(summary)
}

fn cannot(doing: &str, path: &Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!("cannot {doing} {}: {error}", path.display()))
}

/// Decodes a backup as it comes and encodes it again with the secrets at its end.
struct Copy {
    decoder: Decoder,
    encoder: Option<Encoder>,
    secrets: Vec<(String, Vec<u8>)>,
    summary: Option<Summary>,
}

impl Copy {
    fn new(secrets: Vec<(String, Vec<u8>)>) -> Self {
        Copy {
            decoder: Decoder::default(),
            encoder: None,
            secrets,
            summary: None,
        }
    }

    /// What these bytes become.
    fn add(&mut self, bytes: &[u8]) -> Result<Vec<u8>, CliError> {
        let mut out = Vec::with_capacity(bytes.len());
        self.decoder.feed(bytes);
        while let Some(frame) = self.decoder.next()? {
            match (frame, &mut self.encoder) {
                (Frame::Header(header), _) => {
                    self.encoder = Some(Encoder::begin(&header, &mut out));
                }
                (Frame::Entry(entry), Some(encoder)) => encoder.entry(&entry, &mut out),
                (Frame::File(name), Some(encoder)) => encoder.file(&name, &mut out),
                (Frame::Data(piece), Some(encoder)) => encoder.data(&piece, &mut out),
                (Frame::End(_), encoder) => {
                    if let Some(mut encoder) = encoder.take() {
                        for (name, secret) in &self.secrets {
                            encoder.file(name, &mut out);
                            for piece in secret.chunks(MAX_PIECE) {
                                encoder.data(piece, &mut out);
                            }
                        }
                        self.summary = Some(encoder.end(&mut out));
                    }
                }
                // The decoder lets nothing stand before the header.
                (_, None) => {}
            }
        }
        Ok(out)
    }

    fn complete(self) -> Result<Summary, CliError> {
        let read = self.decoder.complete()?;
        Ok(self.summary.unwrap_or(read))
    }
}
