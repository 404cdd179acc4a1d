//! The commands.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when the reader has gone or the disk is full; `totoro_cli::out` does not"
)]

mod applied;
mod audit;
mod ban;
mod check;
mod doctor;
mod drain;
mod enroll;
mod frps_config;
mod inspect;
mod invite;
mod key;
mod local;
mod run;
mod uninstall;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::builder::BoolishValueParser;
use clap::{Parser, Subcommand};
use reqwest::StatusCode;
use totoro_api::Reason;
use totoro_api::ports::Pool;
use totoro_cli::{out, print_json};

use crate::config::{Config, Settings};
use crate::control::{CallError, Control};
use crate::health::Health;
use crate::local::{Ask, NotRunning, ask};

/// Lends this machine's ports through frps, under limits that its kernel holds.
#[derive(Debug, Parser)]
#[command(
    name = "totoro-node",
    version,
    after_help = "\
Examples:
  TOTORO_TOKEN=… totoro-node enroll --control https://control.example
  totoro-node check                     can this machine be a node?
  totoro-node frps-config --out /etc/totoro/frps.toml   what a stock frps needs (0600)
  totoro-node run                       the daemon
  totoro-node invite create --label ann --limits '{\"max_conns\": 5}'
  totoro-node inspect conns             who is connected now

Exit codes: 0 ok, 1 refused or failed, 2 usage, 3 can't reach, 4 not authorised."
)]
struct Cli {
    /// The settings' file.
    #[arg(
        long,
        global = true,
        default_value = "/etc/totoro/node.toml",
        env = "TOTORO_NODE_CONFIG"
    )]
    config: PathBuf,
    /// Answers as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Prints the effective settings and where each comes from, and ends.
    #[arg(long, global = true)]
    print_config: bool,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes this machine a node, with a one-time token.
    #[command(after_help = "\
Examples:
  TOTORO_TOKEN=… totoro-node enroll --control https://control.example.org
  totoro-node enroll --control https://control.example.org --token-file ./token --dir ./lab
  totoro-node enroll --control https://control.example.org --token-file ./token --json

With --json: the node's id, name, addresses and pool, the control plane, and the files that were
written. No secret is in it.")]
    Enroll(enroll::Args),
    /// Runs the daemon.
    #[command(after_help = "\
Examples:
  totoro-node run
  totoro-node run --print-config              what holds, and where each setting comes from
  TOTORO_LOG=debug totoro-node run --log-json
  totoro-node --config ./lab/node.toml run --run-dir ./lab/run")]
    Run {
        /// Accept a plugin port from 1024 on, where there are no other local users.
        #[arg(long)]
        allow_unprivileged_plugin_port: bool,
        /// Log JSON lines.
        #[arg(long, env = "TOTORO_NODE_LOG_JSON", value_parser = BoolishValueParser::new())]
        log_json: bool,
    },
    /// Says whether this machine has what it takes.
    #[command(after_help = "\
Examples:
  totoro-node check
  totoro-node --config ./lab/node.toml check --json")]
    Check,
    /// Says how the running node is, and what to do about what is wrong.
    #[command(after_help = "\
Examples:
  totoro-node doctor
  totoro-node --config ./lab/node.toml doctor --json

Looks only: secrets, attached programs and what may go past them, the daemon's word on itself, its last
problems, frps, and whose node the control plane takes this one for; where the daemon has not heard of that,
what it answers. Runs as root, beside the daemon or without one. Exit code 1 when a check fails; warnings do
not fail.")]
    Doctor,
    /// Shows what the kernel holds.
    Inspect(inspect::Args),
    /// Prints frps's configuration, with the pool that holds now. It has secrets in it.
    FrpsConfig(frps_config::Args),
    /// Makes and changes invites.
    #[command(subcommand)]
    Invite(invite::Command),
    /// Lists the sessions.
    #[command(after_help = "\
Examples:
  totoro-node sessions
  totoro-node sessions --json")]
    Sessions,
    /// Ends a session.
    #[command(after_help = "\
Examples:
  totoro-node kick ses_0123456789abcdef")]
    Kick {
        /// Its id, from `sessions`.
        session: String,
    },
    /// Bans sources on this node.
    #[command(subcommand)]
    Ban(ban::Command),
    /// Takes nothing new on this node; what lives goes on.
    #[command(after_help = "\
Examples:
  totoro-node drain         before a reboot: nothing new comes
  totoro-node drain --off   back to work")]
    Drain {
        /// Take what is new again.
        #[arg(long)]
        off: bool,
    },
    /// The node's own key.
    #[command(subcommand)]
    Key(key::Command),
    /// Shows this node's part of the audit trail, oldest first. Without --since: the newest events.
    #[command(after_help = "\
Examples:
  totoro-node audit                               the newest 200
  totoro-node audit --since 1h --reason max_conns
  totoro-node audit --invite inv-4k2v9x0c7m1p --kind session.closed --json
  totoro-node audit --follow                      and what arrives")]
    Audit(audit::Args),
    /// Detaches all programs, removes all pins and reserved ports, and says so. The daemon must not run.
    Uninstall(uninstall::Args),
}

/// Before a unit that failed ends. systemd starts it again, and where frps's questions wait in the socket at once:
/// from 20 such starts in 2 s on it would give the socket up (`TriggerLimitBurst`).
const REST: Duration = Duration::from_secs(2);

/// The command line, from which man pages and completions are made.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Threads that the daemon's tasks share, at most: what is decided is decided under one lock, and a machine with
/// hundreds of processors would have them all take places of the unit's `TasksMax`.
const WORKERS: usize = 4;

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let health = Health::default();
    logs(&cli.command, &health);
    let json = matches!(cli.command, Command::Run { log_json: true, .. });
    let is_unit =
        matches!(cli.command, Command::Run { .. }) && std::env::var_os("NOTIFY_SOCKET").is_some();
    let done = listener(&cli).and_then(|listener| {
        let processors = std::thread::available_parallelism().map_or(WORKERS, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(processors.min(WORKERS))
            .enable_all()
            .build()?;
        runtime.block_on(act(cli, health, listener))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match json {
                // Whoever reads the log takes each line for JSON, the last one too.
                true => tracing::error!(error = format!("{error:#}"), "ended"),
                false => out::warn(format_args!("error: {error:#}")),
            }
            if is_unit {
                std::thread::sleep(REST);
            }
            ExitCode::from(code(&error))
        }
    }
}

/// The daemon's socket, where it is the daemon that is to run; it has no more privileges then than it
/// needs.
fn listener(cli: &Cli) -> Result<Option<TcpListener>> {
    match cli.command {
        Command::Run {
            allow_unprivileged_plugin_port,
            ..
        } if !cli.print_config => {
            let config = Config::load(&cli.config, cli.settings.clone())?;
            run::prepare(&config, allow_unprivileged_plugin_port).map(Some)
        }
        _ => Ok(None),
    }
}

async fn act(cli: Cli, health: Health, listener: Option<TcpListener>) -> Result<()> {
    if let Command::Enroll(args) = &cli.command {
        anyhow::ensure!(
            !cli.print_config,
            "there are no settings to print before this machine is enrolled"
        );
        return enroll::run(args, &cli.config, cli.settings, cli.json).await;
    }
    if !cli.config.exists() {
        let config = || Config::unenrolled(&cli.config, cli.settings.clone());
        match &cli.command {
            Command::Check => {
                let pool = Ok(Pool::default());
                return check::run(&config()?, &cli.config, pool, false, cli.json).await;
            }
            Command::Uninstall(args) => {
                return uninstall::run(&config()?, &cli.config, args, cli.json);
            }
            _ => {}
        }
    }
    let settings = cli.config.clone();
    let config = Config::load(&cli.config, cli.settings)?;
    if cli.print_config {
        return match cli.json {
            true => Ok(print_json(&config.printed())?),
            false => Ok(out::text(&config.print()?)?),
        };
    }
    let control = || Control::with_key_file(&config.control, &config.key_file);
    match cli.command {
        Command::Enroll(_) => Ok(()),
        Command::Run { .. } => {
            let listener = listener.context("no socket was prepared")?;
            run::run(config, health, listener).await
        }
        Command::Check => {
            let pool = applied::pool(&config).await;
            check::run(&config, &settings, pool, true, cli.json).await
        }
        Command::Doctor => {
            let pool = applied::pool(&config).await;
            doctor::run(&config, &settings, pool, cli.json).await
        }
        Command::FrpsConfig(args) => {
            frps_config::run(&config, &applied::pool(&config).await?, &args, cli.json)
        }
        Command::Inspect(args) => {
            let socket = config.local_socket();
            let names = async || ask(&socket, &Ask::Tenants).await;
            inspect::run(&config, &args, cli.json, names).await
        }
        Command::Invite(command) => invite::run(&control()?, command, cli.json).await,
        Command::Drain { off } => drain::run(&control()?, !off, cli.json).await,
        Command::Key(command) => key::run(&config, command, cli.json).await,
        Command::Audit(args) => audit::run(&control()?, &args, cli.json).await,
        Command::Sessions => local::sessions(&config, cli.json).await,
        Command::Kick { session } => local::kick(&config, session, cli.json).await,
        Command::Ban(command) => ban::run(&config, command, cli.json).await,
        Command::Uninstall(args) => uninstall::run(&config, &settings, &args, cli.json),
    }
}

/// Logs go to stderr: with times for the daemon, as lines or JSON, only what is wrong for commands.
fn logs(command: &Command, health: &Health) {
    use tracing_subscriber::Layer as _;
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;

    let (daemon, json) = match command {
        Command::Run { log_json, .. } => (true, *log_json),
        _ => (false, false),
    };
    let filter = totoro_cli::log_filter(if daemon { "info" } else { "warn" });
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // A journal or a file is not to have colour codes in it.
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()) && !json);
    let lines = match json {
        true => lines.json().boxed(),
        false => lines.boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(daemon.then(|| health.clone().with_filter(LevelFilter::WARN)))
        .init();
}

/// The exit code of a failure.
fn code(error: &anyhow::Error) -> u8 {
    if error.is::<NotRunning>() {
        return 3;
    }
    match error.downcast_ref::<CallError>() {
        Some(CallError::Unreachable(..)) => 3,
        // Of what is forbidden, that alone for which another key would do.
        Some(CallError::Refused { status, code, .. })
            if *status == StatusCode::UNAUTHORIZED || code == Reason::NotAuthorized.code() =>
        {
            4
        }
        _ => 1,
    }
}

/// A query of the parameters that are there.
fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| {
        let value = value.as_ref()?;
        Some(format!("{name}={}", escaped(value)))
    });
    let given: Vec<String> = given.collect();
    if given.is_empty() {
        return String::new();
    }
    format!("?{}", given.join("&"))
}

/// Percent-encodes what a query may not have (RFC 3986, 2.3: all but the unreserved).
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_not_authorised_is_told_so() {
        let refused = |status, reason: Reason| {
            code(&anyhow::Error::new(CallError::Refused {
                status,
                code: reason.code().to_owned(),
                detail: String::new(),
                next: String::new(),
                retry_after: None,
            }))
        };
        for (status, reason, exit) in [
            (StatusCode::UNAUTHORIZED, Reason::NotAuthorized, 4),
            (StatusCode::FORBIDDEN, Reason::NotAuthorized, 4),
            (StatusCode::FORBIDDEN, Reason::InviteRevoked, 1),
            (StatusCode::CONFLICT, Reason::Conflict, 1),
        ] {
            assert_eq!(refused(status, reason), exit, "{status} {reason:?}");
        }
    }
}
