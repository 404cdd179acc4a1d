//! `session …`.

use clap::{Args, Subcommand};
use totoro_api::wire::session::SessionPage;
use totoro_cli::{Table, print_json};

use super::client::{in_path, with_query};
use super::{CliError, Remote};

#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control session list --node n1
  totoro-control session kick ses_0123456789abcdef --node n1")]
pub(super) struct SessionCommand {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Who is on, as the nodes last reported it.
    #[command(after_help = "\
Examples:
  totoro-control session list --node n1")]
    List {
        /// On this node, by id or name.
        #[arg(long)]
        node: Option<String>,
    },
    /// End a session. Who has the code can come back: ban the source, or revoke the invite.
    #[command(after_help = "\
Examples:
  totoro-control session kick ses_0123456789abcdef --node n1")]
    Kick {
        /// The session's id.
        session: String,
        /// The node it is on, by id or name.
        #[arg(long)]
        node: String,
    },
}

impl SessionCommand {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let (client, as_json) = (self.remote.client()?, self.remote.json);
        let node = match self.action {
            Action::Kick { session, node } => {
                let path = format!("/admin/sessions/{}", in_path(&session)?);
                return client
                    .delete(&with_query(&path, &[("node", Some(node))]))
                    .await;
            }
            Action::List { node } => node,
        };
        let mut all = SessionPage::default();
        let mut cursor = None;
        loop {
            let query = [("node", node.clone()), ("cursor", cursor)];
            let page: SessionPage = client.get(&with_query("/admin/sessions", &query)).await?;
            all.items.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        if as_json {
            return Ok(print_json(&all)?);
        }
        let mut table = Table::new([
            "SESSION", "NODE", "TENANT", "CLIENT", "SINCE", "FRPC", "STATE",
        ]);
        for session in all.items {
            let state = if session.kicked { "kicked" } else { "on" };
            table.row([
                session.id,
                session.node,
                session.tenant,
                session.client,
                session.since,
                session.frpc_version,
                state.to_owned(),
            ]);
        }
        Ok(table.print()?)
    }
}
