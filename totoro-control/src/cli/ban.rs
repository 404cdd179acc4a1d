//! `ban …`.

use clap::{Args, Subcommand};
use totoro_api::ticket::rfc3339;
use totoro_api::wire::ban::{BanEntry, BanPage, NewBan};
use totoro_cli::{End, Table, print_json};

use super::client::{in_path, with_query};
use super::{CliError, Remote};

#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control ban add 192.0.2.0/24 --until 1d --note scanner
  totoro-control ban list --node n1
  totoro-control ban remove ban-4k2v9x0c7m1p --node n1")]
pub(super) struct BanCommand {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Ban an address or a prefix from a node, or from all of them.
    #[command(after_help = "\
Examples:
  totoro-control ban add 192.0.2.0/24 --until 1d --note scanner     from all nodes
  totoro-control ban add 2001:db8::7 --node n1")]
    Add {
        /// The address or prefix.
        prefix: String,
        /// The node, by id or name; without it, all nodes.
        #[arg(long)]
        node: Option<String>,
        /// When it ends: 1d, 2030-01-31T12:00:00Z or never.
        #[arg(long, default_value = "never")]
        until: String,
        /// Why.
        #[arg(long, default_value = "")]
        note: String,
    },
    /// List the bans of a node, or those of all nodes.
    #[command(after_help = "\
Examples:
  totoro-control ban list                                          of all nodes
  totoro-control ban list --node n1")]
    List {
        /// The node, by id or name.
        #[arg(long)]
        node: Option<String>,
    },
    /// Lift a ban.
    #[command(after_help = "\
Examples:
  totoro-control ban remove ban-4k2v9x0c7m1p --node n1")]
    Remove {
        /// The ban's id.
        ban: String,
        /// The node it is on; without it, a ban on all nodes.
        #[arg(long)]
        node: Option<String>,
    },
}

impl BanCommand {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let (client, as_json) = (self.remote.client()?, self.remote.json);
        match self.action {
            Action::Add {
                prefix,
                node,
                until,
                note,
            } => {
                let now = time::OffsetDateTime::now_utc().unix_timestamp();
                let left = until.parse::<End>().and_then(|end| end.left(now));
                let left = left.map_err(|why| CliError::Usage(format!("--until: {why}")))?;
                let until = left.map(|left| rfc3339(now + left));
                let new = NewBan {
                    node,
                    prefix,
                    until,
                    note,
                };
                let made: BanEntry = client.post("/admin/bans", &new, &[]).await?;
                if as_json {
                    Ok(print_json(&made)?)
                } else {
                    print_table(vec![made])
                }
            }
            Action::List { node } => {
                let mut all = BanPage::default();
                let mut cursor = None;
                loop {
                    let query = [("node", node.clone()), ("cursor", cursor)];
                    let page: BanPage = client.get(&with_query("/admin/bans", &query)).await?;
                    all.items.extend(page.items);
                    match page.next {
                        Some(next) => cursor = Some(next),
                        None => break,
                    }
                }
                if as_json {
                    Ok(print_json(&all)?)
                } else {
                    print_table(all.items)
                }
            }
            Action::Remove { ban, node } => {
                let path = format!("/admin/bans/{}", in_path(&ban)?);
                client.delete(&with_query(&path, &[("node", node)])).await
            }
        }
    }
}

fn print_table(bans: Vec<BanEntry>) -> Result<(), CliError> {
    let mut table = Table::new(["ID", "PREFIX", "NODE", "UNTIL", "NOTE"]);
    for ban in bans {
        table.row([
            ban.id,
            ban.prefix.to_string(),
            ban.node.unwrap_or_else(|| "all".to_owned()),
            ban.until.unwrap_or_else(|| "never".to_owned()),
            ban.note,
        ]);
    }
    Ok(table.print()?)
}
