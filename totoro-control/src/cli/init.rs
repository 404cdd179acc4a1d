//! `init`: settings, secrets and an empty store. Asks nothing that it can choose well.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::CliError;
use crate::config::{Config, TlsFiles};
use crate::duration::Span;
use crate::http::load_tls;
use crate::keys::{KeyRing, Purpose, ServerSecret, TokenKind, create_secret};
use crate::records::{AdminTokenRecord, Generation, key};
use crate::store::{SledStore, Store as _, Tx};

/// Make a new installation.
#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control init --dir /etc/totoro --listen 127.0.0.1:8080 --public-url https://control.example.org
  totoro-control init --dir /etc/totoro --listen 0.0.0.0:443 --public-url https://control.example.org \\
    --tls-cert fullchain.pem --tls-key privkey.pem --admin-listen 127.0.0.1:8081
  totoro-control init --dir ./lab --listen 10.0.0.1:8080 --public-url http://10.0.0.1:8080 --insecure-http")]
pub(super) struct Init {
    /// Where everything goes.
    #[arg(long)]
    dir: PathBuf,
    /// Where to listen; without --tls-cert plain HTTP, so on loopback behind a TLS proxy.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where clients reach it; goes into the generated frpc.toml.
    #[arg(long)]
    public_url: String,
    /// Where to serve the admins' part instead, for them alone.
    #[arg(long)]
    admin_listen: Option<SocketAddr>,
    /// Serve TLS with this certificate, in PEM with its chain.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM, mode 0600.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Serve keys over plain HTTP beyond loopback. Only for closed networks.
    #[arg(long)]
    insecure_http: bool,
    /// A ticket's life, 1s to 24h.
    #[arg(long, default_value = "1h")]
    ticket_ttl: Span,
    /// How often nodes report.
    #[arg(long, default_value = "10s")]
    heartbeat_interval: Span,
}

impl Init {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let mut config = Config::new(
            self.listen,
            self.public_url.trim_end_matches('/').to_owned(),
        );
        config.insecure_http = self.insecure_http;
        config.admin_listen = self.admin_listen;
        config.tls = tls_files(self.tls_cert, self.tls_key)?;
        config.ticket_ttl = self.ticket_ttl;
        config.heartbeat_interval = self.heartbeat_interval;
        config.check()?;
        let file = self.dir.join("control.toml");
        if file.exists() {
            let problem = format!("{} exists: this directory is in use", file.display());
            return Err(CliError::Failed(problem));
        }
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            CliError::Failed(format!("cannot {what}: {error}"))
        };
        let (data, secrets) = (
            self.dir.join(&config.data_dir),
            self.dir.join(&config.secrets_dir),
        );
        let token_file = self.dir.join("admin.token");
        let server_key = secrets.join("server.key");
        let of_store = data.join("db");
        refuse_leftovers(&[
            (&server_key, &server_key),
            (&token_file, &token_file),
            (&of_store, &data),
        ])?;
        let secret = ServerSecret::generate();
        secret.create(&server_key)?;
        let now = time::OffsetDateTime::now_utc();
        KeyRing::load(&secrets, now.unix_timestamp())?.renew(now.unix_timestamp())?;
        let token = TokenKind::Admin.generate();
        create_secret(&token_file, format!("{token}\n").as_bytes())?;

        let store = SledStore::open(&data, u64::from(config.cache_mib) << 20)?;
        let generation = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(1);
        let mut tx = Tx::new(&store);
        if tx.get::<Generation>(key::GENERATION)?.is_some() {
            return Err(CliError::Failed(format!(
                "{} holds a store already",
                data.display()
            )));
        }
        tx.put(key::GENERATION, &Generation { generation })?;
        let hash = secret.hash_hex(Purpose::Admin, &token);
        tx.put(&key::admin_token(&hash), &AdminTokenRecord::first("init"))?;
        store.commit(tx.into_commit()).await?;
        store.close().await;

        // Last, so that its presence says that the rest is complete.
        let text = toml::to_string(&config).map_err(|error| failed("write settings", &error))?;
        let text = format!("# Totoro's control plane. Secrets are in secrets/, mode 0600.\n{text}");
        create_whole(&file, text.as_bytes())
            .map_err(|error| failed("write control.toml", &error))?;
        println!("settings      {}", file.display());
        println!("admin token   {} (mode 0600)", token_file.display());
        println!(
            "next          totoro-control serve --config {}",
            file.display()
        );
        Ok(())
    }
}

/// Certificate and key, which must be fit to serve. Absolute, since settings may be read from
/// elsewhere.
fn tls_files(cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<TlsFiles>, CliError> {
    let (Some(cert), Some(key)) = (cert, key) else {
        return Ok(None);
    };
    let failed = |error| CliError::Failed(format!("where are certificate and key: {error}"));
    let files = TlsFiles {
        cert: std::path::absolute(cert).map_err(failed)?,
        key: std::path::absolute(key).map_err(failed)?,
    };
    load_tls(&files)?;
    Ok(Some(files))
}

/// Refuses a directory in which an init has died midway: what it left holds secrets, so it is the
/// operator who removes them. Each place is what tells of it, and what is to go.
fn refuse_leftovers(places: &[(&Path, &Path)]) -> Result<(), CliError> {
    let left: Vec<String> = places
        .iter()
        .filter(|(sign, _)| sign.exists())
        .map(|(_, place)| place.display().to_string())
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    let left = left.join(" ");
    Err(CliError::Failed(format!(
        "an init began here and did not end: there is no control.toml, but there is {left}; nothing \
         uses it yet, so remove it (rm -r {left}) and run init again"
    )))
}

/// Makes a file that is there whole and durably, or not at all.
fn create_whole(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let unfinished = path.with_extension("toml.new");
    let mut file = File::create(&unfinished)?;
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    File::open(dir)?.sync_all()
}
