//! `sessions`, `kick`, `ban`: by the local socket, so they work with the control plane away.

use std::net::IpAddr;

use anyhow::{Context, Result};
use clap::Subcommand;
use ipnet::IpNet;
use totoro_cli::{Table, out, print_json};

use crate::config::{Config, Span};
use crate::local::{Ask, ask};
use crate::session::{BanLine, SessionLine};

/// What to do with bans.
#[derive(Debug, Subcommand)]
pub(super) enum Bans {
    /// Bans an address or a prefix on this node.
    #[command(after_help = "\
Examples:
  totoro-node ban add 192.0.2.7 --for 24h
  totoro-node ban add 2001:db8::/48")]
    Add {
        /// `192.0.2.7` or `2001:db8::/48`.
        prefix: String,
        /// For so long, e.g. `24h`; until lifted when absent.
        #[arg(long)]
        r#for: Option<Span>,
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

/// `sessions`.
pub(super) async fn sessions(config: &Config, as_json: bool) -> Result<()> {
    let all: Vec<SessionLine> = ask(&config.local_socket(), &Ask::Sessions).await?;
    if as_json {
        return Ok(print_json(&all)?);
    }
    let mut table = Table::new([
        "SESSION", "TENANT", "CLIENT", "SINCE", "STATE", "FRPC", "PROXIES",
    ]);
    for session in all {
        table.row([
            session.id,
            session.tenant,
            session.client,
            session.since,
            if session.connected {
                "connected"
            } else {
                "lost"
            }
            .to_owned(),
            session.frpc_version,
            session.proxies.join(", "),
        ]);
    }
    Ok(table.print()?)
}

/// `kick`.
pub(super) async fn kick(config: &Config, session: String) -> Result<()> {
    ask::<()>(&config.local_socket(), &Ask::Kick { session }).await?;
    out::line("the session is ended; who has the code can come back (ban keeps an address out)")?;
    Ok(())
}

/// `ban`.
pub(super) async fn bans(config: &Config, command: Bans, as_json: bool) -> Result<()> {
    let socket = config.local_socket();
    match command {
        Bans::Add { prefix, r#for } => {
            ask::<()>(
                &socket,
                &Ask::Ban {
                    prefix: read(&prefix)?,
                    for_s: r#for.map(|span| span.ms / 1000),
                },
            )
            .await?;
            out::line("banned")?;
        }
        Bans::Remove { prefix } => {
            ask::<()>(
                &socket,
                &Ask::Unban {
                    prefix: read(&prefix)?,
                },
            )
            .await?;
            out::line("lifted")?;
        }
        Bans::List => {
            let all: Vec<BanLine> = ask(&socket, &Ask::Bans).await?;
            if as_json {
                return Ok(print_json(&all)?);
            }
            let mut table = Table::new(["PREFIX", "UNTIL", "BY"]);
            for ban in all {
                let until = if ban.until.is_empty() {
                    "never".to_owned()
                } else {
                    ban.until
                };
                table.row([ban.prefix.to_string(), until, ban.by]);
            }
            table.print()?;
        }
    }
    Ok(())
}

fn read(text: &str) -> Result<IpNet> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse())
        .with_context(|| format!("{text:?} is no address or prefix: 192.0.2.7, 2001:db8::/48"))
}
