//! `invite …`.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde::de::DeserializeOwned;
use totoro_api::limits::Limits;
use totoro_api::wire::invite::{ChangeInvite, Invite, InvitePage, NewInvite};
use totoro_api::wire::push::InviteState;
use totoro_cli::{Table, print_json, word};

use super::client::{Client, in_path, with_query};
use super::limits::{LimitFlags, time};
use super::{CliError, Remote, batch};

#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control invite create --node n1 --label \"for Mei\" --max-conns 5 --max-proxies 2 --expires 7d
  totoro-control invite create --node n1 --count 200 --label \"course {\x1b[0mn}\" --csv > codes.csv
  totoro-control invite list --node n1 --label course --state active
  totoro-control invite change inv-4k2v9x0c7m1p --max-conns 10
  totoro-control invite revoke inv-4k2v9x0c7m1p")]
pub(super) struct InviteCommand {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make an invite, or many; codes are shown once.
    #[command(after_help = "\
Examples:
  totoro-control invite create --node n1 --label \"for Mei\" --max-conns 5 --max-proxies 2 --expires 7d
  totoro-control invite create --node n1 --count 200 --label \"course {\x1b[0mn}\" --csv > codes.csv")]
    Create(Box<Create>),
    /// List invites.
    #[command(after_help = "\
Examples:
  totoro-control invite list --node n1 --label course --state active")]
    List {
        /// Of this node, by id or name.
        #[arg(long)]
        node: Option<String>,
        /// Only those with this in their label, in capitals or not.
        #[arg(long)]
        label: Option<String>,
        /// Only those in this state: active, paused, revoked or expired.
        #[arg(long)]
        state: Option<String>,
    },
    /// Show one.
    #[command(after_help = "\
Examples:
  totoro-control invite show inv-4k2v9x0c7m1p")]
    Show(One),
    /// Change limits, label, note or expiry; what is not given stays.
    #[command(after_help = "\
Examples:
  totoro-control invite change inv-4k2v9x0c7m1p --max-conns 10
  totoro-control invite change inv-4k2v9x0c7m1p --label \"for Mei and Jun\" --expires never")]
    Change(Box<Change>),
    /// Refuse what is new; what lives goes on.
    #[command(after_help = "\
Examples:
  totoro-control invite pause inv-4k2v9x0c7m1p")]
    Pause(One),
    /// Take the pause back.
    #[command(after_help = "\
Examples:
  totoro-control invite resume inv-4k2v9x0c7m1p")]
    Resume(One),
    /// A new code for the same invite; the old one stops, and what lives is cut.
    #[command(after_help = "\
Examples:
  totoro-control invite rotate inv-4k2v9x0c7m1p")]
    Rotate(One),
    /// End it for good, and cut what lives.
    #[command(after_help = "\
Examples:
  totoro-control invite revoke inv-4k2v9x0c7m1p")]
    Revoke(One),
}

#[derive(Args)]
struct One {
    /// The invite's id.
    invite: String,
}

#[derive(Args)]
struct Create {
    /// The node, by id or name.
    #[arg(long)]
    node: String,
    // clap takes a bare {n} for a line feed; the escape is not to be seen.
    #[arg(
        long,
        default_value = "",
        help = "A name for people. With --count, {\x1b[0mn} in it is each one's number"
    )]
    label: String,
    /// So many at once, at most 1000: all of them or none.
    #[arg(long, value_name = "N")]
    count: Option<u32>,
    /// Print id, label, code, the code for a QR code, and expiry as CSV.
    #[arg(long, requires = "count", conflicts_with = "json")]
    csv: bool,
    /// Free text for the lender.
    #[arg(long, default_value = "")]
    note: String,
    /// When it ends: 7d, 2030-01-31T12:00:00Z or never.
    #[arg(long, alias = "expires-at", default_value = "never")]
    expires: String,
    /// Repeating the command with the same key makes no second invite, and shows the codes again.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    limits: LimitFlags,
}

#[derive(Args)]
struct Change {
    /// The invite's id.
    invite: String,
    /// A new name for people.
    #[arg(long)]
    label: Option<String>,
    /// A new text for the lender.
    #[arg(long)]
    note: Option<String>,
    /// When it ends: 7d, 2030-01-31T12:00:00Z or never.
    #[arg(long, alias = "expires-at")]
    expires: Option<String>,
    #[command(flatten)]
    limits: LimitFlags,
}

impl InviteCommand {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let (client, as_json) = (self.remote.client()?, self.remote.json);
        let invite = match self.action {
            Action::List { node, label, state } => {
                let filters = [("node", node), ("label", label), ("state", state)];
                return list(&client, &filters, as_json).await;
            }
            Action::Create(create) if create.count.is_some() => {
                let as_csv = create.csv;
                return batch::show(&create.run(&client).await?, as_csv, as_json);
            }
            Action::Create(create) => create.run(&client).await?,
            Action::Show(One { invite }) => client.get(&path(&invite)?).await?,
            Action::Change(change) => change.run(&client).await?,
            Action::Pause(One { invite }) => {
                set_state(&client, &invite, InviteState::Paused).await?
            }
            Action::Resume(One { invite }) => {
                set_state(&client, &invite, InviteState::Active).await?
            }
            Action::Rotate(One { invite }) => {
                let (read, write) = (path(&invite)?, format!("{}/rotate", path(&invite)?));
                let nothing = |_: &Invite| Ok(None::<()>);
                let version = |invite: &Invite| invite.version;
                client
                    .update((Method::POST, &read, &write), version, nothing)
                    .await?
            }
            Action::Revoke(One { invite }) => {
                let path = path(&invite)?;
                let nothing = |_: &Invite| Ok(None::<()>);
                let version = |invite: &Invite| invite.version;
                client
                    .update((Method::DELETE, &path, &path), version, nothing)
                    .await?
            }
        };
        if as_json {
            Ok(print_json(&invite)?)
        } else {
            print_invite(&invite)
        }
    }
}

impl Create {
    /// Answers one invite, or with a count the page of them.
    async fn run<T: DeserializeOwned>(self, client: &Client) -> Result<T, CliError> {
        let expires = time("--expires", &self.expires)?;
        let new = NewInvite {
            node: Some(self.node),
            label: self.label,
            limits: self.limits.over(&Limits::default())?,
            expires_at: Some(expires).filter(|at| !at.is_empty()),
            note: self.note,
            count: self.count,
        };
        let key = self
            .idempotency_key
            .as_deref()
            .map(|key| ("idempotency-key", key));
        client.post("/admin/invites", &new, key.as_slice()).await
    }
}

impl Change {
    async fn run(self, client: &Client) -> Result<Invite, CliError> {
        let path = path(&self.invite)?;
        let expires_at = self
            .expires
            .as_deref()
            .map(|text| time("--expires", text))
            .transpose()?;
        let change = |invite: &Invite| {
            let limits = self
                .limits
                .is_given()
                .then(|| self.limits.over(&invite.limits));
            Ok(Some(ChangeInvite {
                state: None,
                limits: limits.transpose()?,
                expires_at: expires_at.clone(),
                label: self.label.clone(),
                note: self.note.clone(),
            }))
        };
        let version = |invite: &Invite| invite.version;
        client
            .update((Method::PATCH, &path, &path), version, change)
            .await
    }
}

async fn set_state(client: &Client, id: &str, state: InviteState) -> Result<Invite, CliError> {
    let path = path(id)?;
    let change = |_: &Invite| {
        Ok(Some(ChangeInvite {
            state: Some(state),
            ..ChangeInvite::default()
        }))
    };
    client
        .update(
            (Method::PATCH, &path, &path),
            |invite: &Invite| invite.version,
            change,
        )
        .await
}

async fn list(
    client: &Client,
    filters: &[(&str, Option<String>)],
    as_json: bool,
) -> Result<(), CliError> {
    let mut all = InvitePage::default();
    let mut cursor = None;
    loop {
        let query = [filters, &[("cursor", cursor)]].concat();
        let page: InvitePage = client.get(&with_query("/admin/invites", &query)).await?;
        all.items.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    if as_json {
        return Ok(print_json(&all)?);
    }
    let mut table = Table::new(["ID", "NODE", "STATE", "EPOCH", "EXPIRES", "LABEL"]);
    for invite in all.items {
        table.row([
            invite.id,
            invite.node,
            word(&invite.state),
            invite.epoch.to_string(),
            invite.expires_at.unwrap_or_else(|| "never".to_owned()),
            invite.label,
        ]);
    }
    Ok(table.print()?)
}

fn print_invite(invite: &Invite) -> Result<(), CliError> {
    let mut table = Table::new(["FIELD", "VALUE"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("id", invite.id.clone());
    if let Some(code) = &invite.code {
        row("code", format!("{code}  (shown once)"));
    }
    if let Some(code) = &invite.code_qr {
        row("qr", code.clone());
    }
    row("node", invite.node.clone());
    row("state", word(&invite.state));
    row("epoch", invite.epoch.to_string());
    row("limits", word(&invite.limits));
    row("created", invite.created_at.clone());
    row(
        "expires",
        invite
            .expires_at
            .clone()
            .unwrap_or_else(|| "never".to_owned()),
    );
    row("label", invite.label.clone());
    row("note", invite.note.clone());
    Ok(table.print()?)
}

fn path(id: &str) -> Result<String, CliError> {
    Ok(format!("/admin/invites/{}", in_path(id)?))
}
