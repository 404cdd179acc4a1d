//! `ban`: by the local socket, so it works with the control plane away.

use anyhow::{Context, Result};
use clap::Subcommand;
use ipnet::IpNet;
use serde::Serialize;
use totoro_api::wire::ban::{canonical, parse};
use totoro_cli::{End, Table, out, print_json};

use crate::clock::machine_ms;
use crate::config::Config;
use crate::local::{Ask, ask};
use crate::session::BanLine;

/// Who made a ban, in its line: the operator, on this node.
const HERE: &str = "node";

/// What to do with bans.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Bans an address or a prefix on this node.
    #[command(after_help = "\
Examples:
  totoro-node ban add 192.0.2.7 --until 24h
  totoro-node ban add 192.0.2.0/24 --until 2030-01-31T12:00:00Z
  totoro-node ban add 2001:db8::/48            until it is lifted")]
    Add {
        /// `192.0.2.7` or `2001:db8::/48`.
        prefix: String,
        /// When it ends: 24h, 2030-01-31T12:00:00Z or never.
        #[arg(long, visible_alias = "for", default_value = "never", value_parser = end)]
        until: End,
    },
    /// Lists the bans that hold here.
    #[command(after_help = "\
Examples:
  totoro-node ban list")]
    List,
    /// Lifts a ban that was made on this node.
    #[command(after_help = "\
Examples:
  totoro-node ban remove 192.0.2.7")]
    Remove {
        /// The address or prefix.
        prefix: String,
    },
}

/// A ban that was lifted, and what keeps the same sources out all the same.
#[derive(Debug, Serialize)]
struct Lifted {
    prefix: IpNet,
    still: Vec<BanLine>,
}

/// Does it.
pub(super) async fn run(config: &Config, command: Command, as_json: bool) -> Result<()> {
    let socket = config.local_socket();
    match command {
        Command::Add { prefix, until } => {
            let prefix = read(&prefix)?;
            ask::<()>(&socket, &question(prefix, until, now())?).await?;
            let all: Vec<BanLine> = ask(&socket, &Ask::Bans)
                .await
                .context("it is banned, but the daemon does not list its bans")?;
            let mut of_it = all;
            of_it.retain(|ban| ban.prefix == prefix);
            if !as_json {
                return table(of_it);
            }
            let made = of_it.iter().find(|ban| ban.by == HERE);
            Ok(print_json(made.context(
                "it was banned, and holds no more: somebody lifted it meanwhile",
            )?)?)
        }
        Command::Remove { prefix } => {
            let prefix = read(&prefix)?;
            ask::<()>(&socket, &Ask::Unban { prefix }).await?;
            let mut still: Vec<BanLine> = ask(&socket, &Ask::Bans)
                .await
                .context("it is lifted, but the daemon does not list its bans")?;
            still.retain(|ban| ban.prefix.contains(&prefix));
            if as_json {
                return Ok(print_json(&Lifted { prefix, still })?);
            }
            out::line(format_args!("lifted: {prefix}"))?;
            if still.is_empty() {
                return Ok(());
            }
            out::line(
                "it stays banned by what follows; what is the control plane's is lifted there \
                 (totoro-control ban remove)",
            )?;
            table(still)
        }
        Command::List => {
            let all: Vec<BanLine> = ask(&socket, &Ask::Bans).await?;
            match as_json {
                true => Ok(print_json(&all)?),
                false => table(all),
            }
        }
    }
}

fn table(bans: Vec<BanLine>) -> Result<()> {
    let mut table = Table::new(["PREFIX", "UNTIL", "BY"]);
    for ban in bans {
        let until = match ban.until.is_empty() {
            true => "never".to_owned(),
            false => ban.until,
        };
        table.row([ban.prefix.to_string(), until, ban.by]);
    }
    Ok(table.print()?)
}

/// How the daemon is asked for it. A span is the same by every clock; a time goes as it is, too, for the
/// daemon to judge by the control plane's clock.
fn question(prefix: IpNet, until: End, now: i64) -> Result<Ask> {
    Ok(Ask::Ban {
        prefix,
        for_s: until.left(now).map_err(anyhow::Error::msg)?,
        until: match until {
            End::At(at) => Some(at),
            End::In(_) | End::Never => None,
        },
    })
}

/// An end that is ahead.
fn end(text: &str) -> Result<End, String> {
    let end: End = text.parse()?;
    end.left(now()).map(|_| end)
}

fn now() -> i64 {
    machine_ms() / 1000
}

/// A prefix as bans are kept by. What has no such form the daemon refuses, and says why.
fn read(text: &str) -> Result<IpNet> {
    let prefix = parse(text).map_err(anyhow::Error::msg)?;
    Ok(canonical(prefix).unwrap_or(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: Command,
    }

    /// What the daemon is asked at second 1,000,000,000 for these words.
    fn asked(line: &str) -> Result<(Option<i64>, Option<i64>), String> {
        let words = ["ban", "add", "192.0.2.7"];
        let words = words.into_iter().chain(line.split_whitespace());
        let read = <Line as clap::Parser>::try_parse_from(words).map_err(|why| why.to_string())?;
        let Command::Add { prefix, until } = read.command else {
            return Err("no ban".to_owned());
        };
        let prefix = super::read(&prefix).map_err(|why| why.to_string())?;
        match question(prefix, until, 1_000_000_000).map_err(|why| why.to_string())? {
            Ask::Ban { for_s, until, .. } => Ok((for_s, until)),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn an_end_is_a_span_a_time_or_never() {
        assert_eq!(asked(""), Ok((None, None)));
        assert_eq!(asked("--until never"), Ok((None, None)));
        assert_eq!(asked("--until 1500ms"), Ok((Some(1), None)));
        assert_eq!(asked("--for 90d"), Ok((Some(90 * 86_400), None)));
        let at = 7_258_161_600;
        assert_eq!(
            asked("--until 2200-01-01T12:00:00Z"),
            Ok((Some(at - 1_000_000_000), Some(at)))
        );
    }

    #[test]
    fn what_would_be_over_at_once_is_refused() {
        for (line, next) in [
            ("--for 500ms", "write 1s or more"),
            ("--until 2001-01-01T00:00:00Z", "is past"),
            ("--until tomorrow", "write 7d, "),
        ] {
            let said = asked(line).unwrap_err();
            assert!(said.contains(next), "{line}: {said}");
        }
    }
}
