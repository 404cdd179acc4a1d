//! `init`: settings, secrets and an empty store. Asks nothing that it can choose well.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use toml::Table;
use totoro_cli::{out, print_json};

use super::CliError;
use crate::config::{Config, Settings};
use crate::http::load_tls;
use crate::keys::{KeyRing, Purpose, ServerSecret, TokenKind, create_secret};
use crate::records::{AdminTokenRecord, Generation, key};
use crate::store::{SledStore, Store as _, Tx, create_whole};

/// Where to listen unless it is said: reachable by nobody else, for a TLS proxy or a first try.
const LISTEN: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080));

/// Make a new installation.
#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control init --public-url https://control.example.org       behind a TLS proxy
  totoro-control init --dir ./lab                                     to try it on this machine
  totoro-control init --listen 0.0.0.0:443 --public-url https://control.example.org \\
    --tls-cert fullchain.pem --tls-key privkey.pem --admin-listen 127.0.0.1:8081
  totoro-control init --dir ./lab --listen 10.0.0.1:8080 --public-url http://10.0.0.1:8080 --insecure-http
  totoro-control init --dir ./lab --json                              where everything is, for a script")]
pub(super) struct Init {
    /// Where everything goes.
    #[arg(long, default_value = "/etc/totoro/control")]
    dir: PathBuf,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// What `--json` prints; the names are those of `restore --json`.
#[derive(Serialize)]
struct Made<'a> {
    config: &'a Path,
    data_dir: &'a Path,
    admin_token: &'a Path,
}

impl Init {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let config = config(&self.settings)?;
        config.check()?;
        if let Some(files) = &config.tls {
            load_tls(files)?;
        }
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
        tx.put(key::admin_token(&hash), &AdminTokenRecord::first("init"))?;
        store.commit(tx.into_commit()).await?;
        store.close().await;

        // Last, so that its presence says that the rest is complete.
        let text = toml::to_string(&config).map_err(|error| failed("write settings", &error))?;
        let text = format!("# Totoro's control plane. Secrets are in secrets/, mode 0600.\n{text}");
        create_whole(&file, 0o666, text.as_bytes())
            .map_err(|error| failed("write control.toml", &error))?;
        if self.json {
            return Ok(print_json(&Made {
                config: &file,
                data_dir: &data,
                admin_token: &token_file,
            })?);
        }
        out::line(format_args!("settings      {}", file.display()))?;
        out::line(format_args!(
            "admin token   {} (mode 0600)",
            token_file.display()
        ))?;
        out::line(format_args!(
            "next          totoro-control serve --config {}",
            file.display()
        ))?;
        Ok(())
    }
}

/// The settings to write: what is given over what can be chosen well.
fn config(given: &Settings) -> Result<Config, CliError> {
    if given.tls_cert.is_some() != given.tls_key.is_some() {
        let problem = "TLS takes both --tls-cert and --tls-key";
        return Err(CliError::Usage(problem.to_owned()));
    }
    let listen = given.listen.unwrap_or(LISTEN);
    let public_url = match &given.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        // Good on this machine, which is where one tries it first.
        None if listen.ip().is_loopback() && given.tls_cert.is_none() => format!("http://{listen}"),
        None => {
            let problem = "--public-url is needed: the URL at which clients reach it";
            return Err(CliError::Usage(problem.to_owned()));
        }
    };
    let written = |error| CliError::Failed(format!("the settings cannot be written: {error}"));
    let mut table = Table::try_from(Config::new(listen, public_url.clone())).map_err(written)?;
    given.over(&mut table)?;
    table.insert("public_url".to_owned(), public_url.into());
    table
        .try_into()
        .map_err(|error| CliError::Usage(format!("settings: {error}")))
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
