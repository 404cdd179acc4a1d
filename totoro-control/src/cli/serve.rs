//! `serve`: the control plane itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, Args};
use tokio::signal::unix::{SignalKind, signal};
use totoro_cli::out;

use super::{CliError, descriptors, systemd};
use crate::app::App;
use crate::audit::Trail;
use crate::config::{self, Config, Settings};
use crate::http::{Server, Tls};
use crate::keys::{KeyRing, ServerSecret};
use crate::store::{SledStore, Store};

/// Below this a ticket's life is for tests: clients would ask for tickets all the time.
const SHORT_TTL: Duration = Duration::from_secs(300);

/// Run the server until SIGTERM or SIGINT.
#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control serve --config /etc/totoro/control/control.toml
  TOTORO_LOG=debug totoro-control serve --config ./lab/control.toml --log-json
  TOTORO_CONTROL_LISTEN=127.0.0.1:9090 totoro-control serve --print-config")]
pub(super) struct Serve {
    /// The settings.
    #[arg(
        long,
        env = "TOTORO_CONTROL_CONFIG",
        default_value = super::SETTINGS_FILE
    )]
    config: PathBuf,
    /// Log JSON lines.
    #[arg(long)]
    log_json: bool,
    /// Print the effective settings and where each comes from, and end.
    #[arg(long)]
    print_config: bool,
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    /// `matches` is what this was read from.
    pub(super) async fn run(self, matches: Option<&ArgMatches>) -> Result<(), CliError> {
        let config = Config::load(&self.config, &self.settings)?;
        if let Some(matches) = matches.filter(|_| self.print_config) {
            return Ok(out::text(&config::print(&config, &self.config, matches)?)?);
        }
        log_to_stderr(self.log_json);
        descriptors::raise(config.max_connections);
        let secret = ServerSecret::load(&config.secrets_dir.join("server.key"))?;
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let ring = KeyRing::load(&config.secrets_dir, now)?;
        let store: Arc<dyn Store> = Arc::new(SledStore::open_sized(
            &config.data_dir,
            u64::from(config.cache_mib) << 20,
            u64::from(config.layer_kib) << 10,
        )?);
        if config.ticket_ttl.0 < SHORT_TTL {
            tracing::warn!(ticket_ttl = %config.ticket_ttl, "tickets live shorter than 5m");
        }
        if config.insecure_http {
            tracing::warn!("insecure_http: keys and codes travel in the clear");
        }
        let segments = config.data_dir.join("audit");
        let trail = Trail::open(Arc::clone(&store), &segments, config.audit).await?;
        let app = App::start(config, Arc::clone(&trail), secret, ring)?;
        if let Err(error) = app.renew_keys().await {
            return Err(CliError::Failed(format!("no ticket key: {error}")));
        }
        // Handlers first: a signal right after "listening" is then a graceful end already.
        let failed = |error| CliError::Failed(format!("no signal handlers: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let server = Server::bind(Arc::clone(&app)).await?;
        let no_address = |error| CliError::Failed(format!("no address: {error}"));
        let (url, tls) = (server.url().map_err(no_address)?, server.tls());
        let admin_url = server.admin_url().map_err(no_address)?;
        tracing::info!(url, admin_url, "listening");
        let mut said = format!("listening on {url}\n");
        if let Some(url) = admin_url {
            said.push_str(&format!("listening for admins on {url}\n"));
        }
        // The log has it too: a full disk behind the standard output keeps nobody from being served.
        if let Err(error) = out::text(&said) {
            tracing::warn!(%error, "the address is not printed");
        }
        let house = tokio::spawn(Arc::clone(&app).keep_house());
        let moving = tokio::spawn(trail.keep(app.stopping()));
        let serving = tokio::spawn(server.run());
        let living = tokio::spawn(systemd::keep_alive(Arc::clone(&app)));
        systemd::ready();
        loop {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM: ending"),
                _ = interrupt.recv() => tracing::info!("SIGINT: ending"),
                // A terminal may close too: it must not end the service.
                _ = hangup.recv() => {
                    reload(tls.as_deref());
                    continue;
                }
            }
            break;
        }
        systemd::stopping();
        living.abort();
        app.stop();
        let (served, kept, moved) = tokio::join!(serving, house, moving);
        store.close().await;
        for ended in [served, kept, moved] {
            ended.map_err(|error| CliError::Failed(format!("a task ended badly: {error}")))?;
        }
        tracing::info!("ended");
        Ok(())
    }
}

/// SIGHUP: a renewed certificate, without a restart.
fn reload(tls: Option<&Tls>) {
    match tls.map(Tls::reload) {
        None => tracing::info!("SIGHUP: nothing to load again, going on"),
        Some(Ok(expires)) => {
            let until = totoro_api::ticket::rfc3339(expires);
            tracing::info!(until, "SIGHUP: certificate and key loaded again");
        }
        Some(Err(error)) => tracing::error!(
            error = &error as &dyn std::error::Error,
            "SIGHUP: certificate and key stay as they were: correct the files and send it again"
        ),
    }
}

fn log_to_stderr(json: bool) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(totoro_cli::log_filter("info"))
        .with_writer(std::io::stderr)
        .with_ansi(false);
    if json {
        builder.json().init()
    } else {
        builder.init()
    }
}
