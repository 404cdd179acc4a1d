//! `invite`: the lender's invites, through the control plane with the node's key.

use anyhow::{Context, Result};
use clap::Subcommand;
use totoro_api::limits::Limits;
use totoro_api::wire::invite::{ChangeInvite, Invite, InvitePage, NewInvite};
use totoro_api::wire::push::InviteState;
use totoro_cli::{Table, out, print_json};

use super::query;
use crate::clock::machine_ms;
use crate::control::Control;

/// What to do with invites.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Makes an invite, or many; codes are shown once.
    Create(Create),
    /// Lists the invites.
    #[command(after_help = "\
Examples:
  totoro-node invite list --label course --state active")]
    List(List),
    /// Shows one.
    #[command(after_help = "\
Examples:
  totoro-node invite show inv-4k2v9x0c7m1p")]
    Show(Which),
    /// Changes limits, expiry, label or note.
    #[command(after_help = "\
Examples:
  totoro-node invite change inv-4k2v9x0c7m1p --limits '{\"max_conns\": 10}'
  totoro-node invite change inv-4k2v9x0c7m1p --label ann --expires 30d")]
    Change(Change),
    /// Refuses what is new; what lives goes on.
    #[command(after_help = "\
Examples:
  totoro-node invite pause inv-4k2v9x0c7m1p")]
    Pause(Which),
    /// Ends a pause.
    #[command(after_help = "\
Examples:
  totoro-node invite resume inv-4k2v9x0c7m1p")]
    Resume(Which),
    /// Gives the invite a new code; what lives under the old one is cut.
    #[command(after_help = "\
Examples:
  totoro-node invite rotate inv-4k2v9x0c7m1p")]
    Rotate(Which),
    /// Ends the invite for good; what lives is cut.
    #[command(after_help = "\
Examples:
  totoro-node invite revoke inv-4k2v9x0c7m1p")]
    Revoke(Which),
}

/// Options of `list`.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Only those with this in their label, in capitals or not.
    #[arg(long)]
    label: Option<String>,
    /// Only those in this state: active, paused, revoked or expired.
    #[arg(long)]
    state: Option<String>,
}

/// Options of `create`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  totoro-node invite create --label ann --limits '{\"max_conns\": 5}'
  totoro-node invite create --count 30 --label 'course {\x1b[0mn}' --json > codes.json")]
pub(super) struct Create {
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
    /// What it allows, as JSON: '{"max_conns": 5, "ports": ["20000-20009"]}'; absent = the node's
    /// defaults.
    #[arg(long, value_parser = limits)]
    limits: Option<Limits>,
    /// When it ends: 7d, 2030-01-31T12:00:00Z or never.
    #[arg(long, alias = "expires-at", value_parser = end)]
    expires: Option<String>,
    /// Free text for yourself.
    #[arg(long, default_value = "")]
    note: String,
    /// Repeating the command with the same key within 24 h makes no second invite, and shows the
    /// codes again.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

/// Options of `change`.
#[derive(Debug, clap::Args)]
pub(super) struct Change {
    /// The invite's id.
    id: String,
    /// Replaces the limits whole (JSON).
    #[arg(long, value_parser = limits)]
    limits: Option<Limits>,
    /// When it ends: 7d, 2030-01-31T12:00:00Z or never. One in the past ends it now.
    #[arg(long, alias = "expires-at", value_parser = end)]
    expires: Option<String>,
    /// A new label.
    #[arg(long)]
    label: Option<String>,
    /// A new note.
    #[arg(long)]
    note: Option<String>,
}

/// One invite.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The invite's id.
    id: String,
}

fn limits(text: &str) -> Result<Limits, String> {
    let limits: Limits = serde_json::from_str(text).map_err(|error| error.to_string())?;
    limits.check().map_err(|error| error.to_string())?;
    Ok(limits)
}

fn end(text: &str) -> Result<String, String> {
    totoro_cli::end(text, machine_ms() / 1000)
}

/// Does it.
pub(super) async fn run(control: &Control, command: Command, as_json: bool) -> Result<()> {
    let invite = match command {
        Command::List(which) => return list(control, &which, as_json).await,
        Command::Create(create) => {
            let body = NewInvite {
                label: create.label,
                limits: create.limits.unwrap_or_default(),
                expires_at: create.expires.filter(|at| !at.is_empty()),
                note: create.note,
                count: create.count,
                ..NewInvite::default()
            };
            let key = create.idempotency_key.as_deref();
            if body.count.is_some() {
                let made = control.post_once("/nodes/invites", key, &body).await?;
                return show_many(&made, as_json);
            }
            control.post_once("/nodes/invites", key, &body).await?
        }
        Command::Show(Which { id }) => control.get(&path(&id)?).await?,
        Command::Rotate(Which { id }) => {
            let (_, tag): (Invite, String) = control.get_tagged(&path(&id)?).await?;
            let rotate = format!("{}/rotate", path(&id)?);
            control
                .post_tagged(&rotate, &tag, &serde_json::json!({}))
                .await?
        }
        Command::Revoke(Which { id }) => {
            let (_, tag): (Invite, String) = control.get_tagged(&path(&id)?).await?;
            control.delete(&path(&id)?, &tag).await?;
            control.get(&path(&id)?).await?
        }
        Command::Pause(Which { id }) => state(control, &id, InviteState::Paused).await?,
        Command::Resume(Which { id }) => state(control, &id, InviteState::Active).await?,
        Command::Change(change) => {
            let body = ChangeInvite {
                limits: change.limits,
                expires_at: change.expires,
                label: change.label,
                note: change.note,
                ..ChangeInvite::default()
            };
            patch(control, &change.id, &body).await?
        }
    };
    show(&invite, as_json)
}

/// The id goes into the path, so it may be nothing but an id.
fn path(id: &str) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let good = !id.is_empty() && id.len() <= 64 && id.bytes().all(plain);
    good.then(|| format!("/nodes/invites/{id}"))
        .context("that is no invite's id; see: invite list")
}

async fn state(control: &Control, id: &str, state: InviteState) -> Result<Invite> {
    patch(
        control,
        id,
        &ChangeInvite {
            state: Some(state),
            ..ChangeInvite::default()
        },
    )
    .await
}

async fn patch(control: &Control, id: &str, body: &ChangeInvite) -> Result<Invite> {
    let (_, tag): (Invite, String) = control.get_tagged(&path(id)?).await?;
    control.patch(&path(id)?, &tag, body).await
}

async fn list(control: &Control, which: &List, as_json: bool) -> Result<()> {
    let mut all: Vec<Invite> = Vec::new();
    let mut next = None::<String>;
    loop {
        let query = query(&[
            ("label", which.label.as_deref()),
            ("state", which.state.as_deref()),
            ("cursor", next.as_deref()),
        ]);
        let page: InvitePage = control.get(&format!("/nodes/invites{query}")).await?;
        all.extend(page.items);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if as_json {
        return Ok(print_json(&all)?);
    }
    let mut table = Table::new(["ID", "LABEL", "STATE", "EPOCH", "CREATED", "EXPIRES"]);
    for invite in all {
        table.row([
            invite.id,
            invite.label,
            format!("{:?}", invite.state).to_lowercase(),
            invite.epoch.to_string(),
            invite.created_at,
            invite.expires_at.unwrap_or_else(|| "never".to_owned()),
        ]);
    }
    Ok(table.print()?)
}

fn show(invite: &Invite, as_json: bool) -> Result<()> {
    if as_json {
        return Ok(print_json(invite)?);
    }
    out::line(format_args!("invite   {}", invite.id))?;
    out::line(format_args!(
        "state    {}, epoch {}",
        format!("{:?}", invite.state).to_lowercase(),
        invite.epoch
    ))?;
    out::line(format_args!(
        "limits   {}",
        serde_json::to_string(&invite.limits)?
    ))?;
    out::line(format_args!(
        "expires  {}",
        invite.expires_at.as_deref().unwrap_or("never")
    ))?;
    if let Some(code) = &invite.code_qr {
        out::line(format_args!("qr       {code}"))?;
    }
    if let Some(code) = &invite.code {
        out::line(format_args!(
            "code     {code}   (shown once; give it to the tenant by a way that others don't read)"
        ))?;
    }
    Ok(())
}

/// Many new invites: their codes are in this answer alone.
fn show_many(made: &InvitePage, as_json: bool) -> Result<()> {
    if as_json {
        return Ok(print_json(&made.items)?);
    }
    let mut table = Table::new(["ID", "LABEL", "CODE", "QR"]);
    for invite in &made.items {
        table.row([
            invite.id.clone(),
            invite.label.clone(),
            invite.code.clone().unwrap_or_default(),
            invite.code_qr.clone().unwrap_or_default(),
        ]);
    }
    Ok(table.print()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command as Any};
    use super::*;

    fn read(words: &[&str]) -> Result<Command, clap::Error> {
        let cli = Cli::try_parse_from([&["totoro-node", "invite"], words].concat())?;
        match cli.command {
            Any::Invite(command) => Ok(command),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_end_has_one_name_and_an_older_one() {
        for flag in ["--expires", "--expires-at"] {
            for (text, at) in [
                ("2030-01-31T12:00:00Z", "2030-01-31T12:00:00Z"),
                ("never", ""),
                ("", ""),
            ] {
                let Ok(Command::Change(change)) = read(&["change", "inv-1", flag, text]) else {
                    panic!("{flag} {text}");
                };
                assert_eq!(change.expires.as_deref(), Some(at));
            }
            let Ok(Command::Create(create)) = read(&["create", flag, "90d"]) else {
                panic!("{flag}");
            };
            assert!(create.expires.unwrap().starts_with("20"));
        }
        let wrong = read(&["create", "--expires", "soon"]).unwrap_err();
        assert!(wrong.to_string().contains("2030-01-31T12:00:00Z or never"));
    }
}
