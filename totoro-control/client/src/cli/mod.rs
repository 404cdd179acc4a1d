//! `totoro`: the library at a terminal.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when the reader has gone or the disk is full; `totoro_cli::out` does not"
)]

mod ask;
mod doctor;
mod help;
mod live;
mod nodes;
mod output;
mod serve;
mod status;
mod test;
mod tunnel;
mod usage;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use totoro_cli::out;

use crate::error::Error;
use crate::lang::{Lang, of_system};
use output::{Output, unwritten};

/// Tunnels by one command: an invite code, or a public node, and a stock frpc.
#[derive(Parser)]
#[command(name = "totoro", version, about, max_term_width = 100)]
#[command(after_help = "\
Examples:
  totoro tcp 22                          expose ssh; asks for the invite code, unseen
  totoro tcp 22 8080 nas.local:445       several at once
  totoro udp 53 --node NAME              by a public node, without a code
  totoro tcp 22 --remote-port 20005      at a port of your choice
  totoro connect tunnels.toml            what a file says; an frpc.toml of the control plane, too
  totoro nodes                           the public nodes, best first
  totoro serve                           a page for all of it, at http://127.0.0.1:7400/
  totoro doctor                          what is wrong, and what to do
  totoro doctor max_proxies              what a reason means

The code comes from TOTORO_INVITE, --invite-file, or a hidden prompt; never from the command line.

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 can't reach, 4 the code is not good.")]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Expose TCP services.
    #[command(after_help = "\
Examples:
  totoro tcp 22
  totoro tcp 22 8080 nas.local:445
  totoro tcp 22 --node n1 --remote-port 20005")]
    Tcp(tunnel::Expose),
    /// Expose UDP services.
    #[command(after_help = "\
Examples:
  totoro udp 53
  totoro udp 53 --node n1")]
    Udp(tunnel::Expose),
    /// Expose what a file says: TOML with [[proxies]], or the frpc.toml that came with an invite.
    #[command(after_help = "\
Examples:
  totoro connect tunnels.toml
  totoro connect frpc.toml --json")]
    Connect(tunnel::Connect),
    /// The public nodes: where they are, how far, how busy; best first.
    #[command(after_help = "\
Examples:
  totoro nodes --top 3
  totoro nodes --control https://control.example.org --region eu --json")]
    Nodes(nodes::Nodes),
    /// The tunnels that run, of all your totoro programs.
    #[command(after_help = "\
Examples:
  totoro status
  totoro status --json")]
    Status(status::Status),
    /// What an invite allows, has used and has left.
    #[command(after_help = "\
Examples:
  totoro usage
  totoro usage --invite-file ./code --json")]
    Usage(usage::UsageCommand),
    /// Look at everything between here and a tunnel, or explain a reason.
    #[command(after_help = "\
Examples:
  totoro doctor
  totoro doctor max_proxies")]
    Doctor(doctor::Doctor),
    /// Open a tunnel to a built-in echo and measure it through its public address.
    #[command(after_help = "\
Examples:
  totoro test
  totoro test --node n1 --json")]
    Test(test::Test),
    /// Serve a page for the browser, and an API, on this machine: tunnels by a few clicks.
    #[command(after_help = "\
Examples:
  totoro serve
  totoro serve --listen 192.0.2.10:7400 --name nas.local")]
    Serve(serve::Serve),
}

/// What all commands share.
#[derive(Args)]
struct Common {
    /// The control plane's address; by default the remembered one.
    #[arg(long, env = "TOTORO_CONTROL", global = true, value_name = "URL")]
    control: Option<String>,
    /// Send the code over plain HTTP to another machine. Only for closed networks.
    #[arg(long, env = "TOTORO_INSECURE_HTTP", global = true)]
    insecure_http: bool,
    /// The file with the invite code, mode 0600 (or TOTORO_INVITE holds the code).
    #[arg(long, env = "TOTORO_INVITE_FILE", global = true, value_name = "FILE")]
    invite_file: Option<PathBuf>,
    /// Keep code and control plane for the next time, in a file that only you can read.
    #[arg(long, global = true)]
    remember: bool,
    /// The frpc to run; by default the first in PATH.
    #[arg(long, env = "TOTORO_FRPC", global = true, value_name = "FILE")]
    frpc: Option<PathBuf>,
    /// Print JSON: one object, or one line for each event.
    #[arg(long, global = true)]
    json: bool,
    /// The language; by default the locale's.
    #[arg(long, env = "TOTORO_LANG", global = true, value_name = "LANG")]
    lang: Option<Language>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Language {
    /// English.
    En,
    /// 中文.
    Zh,
}

impl Common {
    fn lang(&self) -> Lang {
        match self.lang {
            Some(Language::En) => Lang::En,
            Some(Language::Zh) => Lang::Zh,
            None => of_system(),
        }
    }
}

/// The command line, from which man pages and completions are made.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses, runs, and turns the outcome into an exit code.
pub fn main() -> ExitCode {
    let command = help::spoken(command(), help::asked(std::env::args_os()));
    let cli = Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let output = Output::new(cli.common.lang(), cli.common.json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(run(cli, output));
            // A prompt that nobody answers must not keep us.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Error::file("runtime", error)),
    };
    let code = match ended {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    };
    if let Some(error) = unwritten() {
        out::warn(format_args!("totoro: {error}"));
        return ExitCode::from(code.max(1));
    }
    ExitCode::from(code)
}

async fn run(cli: Cli, output: Output) -> Result<u8, Error> {
    let Cli { common, command } = cli;
    match command {
        Command::Tcp(expose) => {
            expose
                .run(&common, output, totoro_api::ports::Protocol::Tcp)
                .await
        }
        Command::Udp(expose) => {
            expose
                .run(&common, output, totoro_api::ports::Protocol::Udp)
                .await
        }
        Command::Connect(connect) => connect.run(&common, output).await,
        Command::Nodes(nodes) => nodes.run(&common, output).await,
        Command::Status(status) => status.run(output),
        Command::Usage(usage) => usage.run(&common, output).await,
        Command::Doctor(doctor) => doctor.run(&common, output).await,
        Command::Test(test) => test.run(&common, output).await,
        Command::Serve(serve) => serve.run(&common, output).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_whole_and_takes_no_code() {
        command().debug_assert();
        let mut all = vec![command()];
        while let Some(command) = all.pop() {
            for arg in command.get_arguments() {
                assert!(!matches!(arg.get_id().as_str(), "code" | "invite"), "{arg}");
            }
            all.extend(command.get_subcommands().cloned());
        }
    }
}
