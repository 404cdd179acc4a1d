//! `ticket-key …`: the keys that tickets are signed with.

use clap::{Args, Subcommand};
use totoro_api::wire::admin::TicketKeyPage;
use totoro_cli::{Table, print_json};

use super::{CliError, Remote};

#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control ticket-key list
  totoro-control ticket-key rotate")]
pub(super) struct TicketKeyCommand {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// The keys, their age, and which nodes know them.
    #[command(after_help = "\
Examples:
  totoro-control ticket-key list")]
    List,
    /// Make a new key now. It signs for each node as soon as the node has said that it knows it;
    /// tickets that were signed before stay good.
    #[command(after_help = "\
Examples:
  totoro-control ticket-key rotate")]
    Rotate,
}

impl TicketKeyCommand {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let (client, as_json) = (self.remote.client()?, self.remote.json);
        let page: TicketKeyPage = match self.action {
            Action::List => client.get("/admin/ticket-keys").await?,
            Action::Rotate => client.post("/admin/ticket-keys", &(), &[]).await?,
        };
        if as_json {
            return Ok(print_json(&page)?);
        }
        let mut table = Table::new(["KID", "AGE", "UNTIL", "SIGNS FOR", "KNOWN TO", "WAITING"]);
        for key in page.items {
            table.row([
                key.kid,
                format!("{}d", key.age_s / 86_400),
                key.expires_at,
                format!("{} nodes", key.signs_for),
                format!("{} nodes", key.acknowledged),
                key.waiting.join(" "),
            ]);
        }
        Ok(table.print()?)
    }
}
