//! The command line. `init`, `serve`, `restore` and `doctor` work on files; everything else talks REST, as any client.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when the reader has gone or the disk is full; `totoro_cli::out` does not"
)]

mod audit;
mod backup;
mod ban;
mod batch;
mod client;
mod descriptors;
mod doctor;
mod error;
mod frps;
mod init;
mod invite;
mod limits;
mod node;
mod restore;
mod serve;
mod session;
mod systemd;
mod ticket_key;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use totoro_cli::out;

use client::Client;
use error::CliError;

/// The settings' file, where none is named.
const SETTINGS_FILE: &str = "/etc/totoro/control/control.toml";

/// Totoro's control plane.
#[derive(Parser)]
#[command(name = "totoro-control", version, about, max_term_width = 100)]
#[command(after_help = "\
Examples:
  totoro-control init --public-url https://control.example.org
  totoro-control serve --config /etc/totoro/control/control.toml
  totoro-control node add --name n1 --pool-tcp 20000-20099 --server-addr n1.example.org:7000
  totoro-control invite create --node n1 --max-conns 5 --expires 7d

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 control plane not reached, 4 not authorised.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new installation: settings, secrets, an empty store.
    Init(init::Init),
    /// Run the server.
    Serve(serve::Serve),
    /// Nodes: add, list, show, change.
    Node(node::NodeCommand),
    /// Invites: create, list, show, change, pause, resume, rotate, revoke.
    Invite(invite::InviteCommand),
    /// Sessions: list, kick.
    Session(session::SessionCommand),
    /// Admins' tokens: create, list, revoke.
    Token(token::TokenCommand),
    /// The keys that tickets are signed with: list, rotate.
    TicketKey(ticket_key::TicketKeyCommand),
    /// The audit trail.
    Audit(audit::Audit),
    /// Bans: add, list, remove.
    Ban(ban::BanCommand),
    /// Back up the store, the audit trail and the settings.
    Backup(backup::Backup),
    /// Make an installation from a backup.
    Restore(restore::Restore),
    /// Check an installation, running or stopped.
    Doctor(doctor::Doctor),
}

/// Where the control plane is and with which token to talk to it. The token itself comes from a
/// file or from `TOTORO_TOKEN`, never from the command line, which every process can read.
#[derive(Args)]
struct Remote {
    /// The control plane's URL.
    #[arg(
        long,
        env = "TOTORO_API",
        global = true,
        default_value = "http://127.0.0.1:8080"
    )]
    api: String,
    /// The file with the admin token, mode 0600 (or TOTORO_TOKEN holds the token).
    #[arg(long, env = "TOTORO_TOKEN_FILE", global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Send the token over plain HTTP to another machine. Only for closed networks.
    #[arg(long, env = "TOTORO_INSECURE_HTTP", global = true)]
    insecure_http: bool,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// The command line, from which man pages and completions are made.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses, runs, and turns the outcome into an exit code.
pub fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            out::warn(format_args!("totoro-control: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command, &matches)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::warn(format_args!("totoro-control: {error}"));
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                out::warn(format_args!("  because: {error}"));
                cause = error.source();
            }
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(command: Command, matches: &ArgMatches) -> Result<(), CliError> {
    match command {
        Command::Init(init) => init.run().await,
        Command::Serve(serve) => serve.run(matches.subcommand_matches("serve")).await,
        Command::Node(node) => node.run().await,
        Command::Invite(invite) => invite.run().await,
        Command::Session(session) => session.run().await,
        Command::Token(token) => token.run().await,
        Command::TicketKey(key) => key.run().await,
        Command::Audit(audit) => audit.run().await,
        Command::Ban(ban) => ban.run().await,
        Command::Backup(backup) => backup.run().await,
        Command::Restore(restore) => restore.run().await,
        Command::Doctor(doctor) => doctor.run().await,
    }
}

impl Remote {
    fn client(&self) -> Result<Client, CliError> {
        Client::new(&self.api, self.token_file.as_deref(), self.insecure_http)
    }
}
