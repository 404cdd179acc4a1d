//! `audit`: this node's part of the trail.

use anyhow::Result;
use totoro_api::wire::event::AuditPage;
use totoro_cli::{Table, print_json};

use super::query;
use crate::control::Control;

/// What to show.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only this invite's.
    #[arg(long)]
    invite: Option<String>,
    /// Only this kind, e.g. `session.closed`.
    #[arg(long)]
    kind: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 200)]
    limit: usize,
}

/// Shows it, oldest first.
pub(super) async fn run(control: &Control, args: &Args, as_json: bool) -> Result<()> {
    let mut all = Vec::new();
    let mut next = None::<String>;
    while all.len() < args.limit {
        let limit = (args.limit - all.len()).min(200).to_string();
        let query = query(&[
            ("limit", Some(&limit)),
            ("invite", args.invite.as_deref()),
            ("kind", args.kind.as_deref()),
            ("cursor", next.as_deref()),
        ]);
        let page: AuditPage = control.get(&format!("/nodes/audit{query}")).await?;
        all.extend(page.items);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if as_json {
        return Ok(print_json(&all)?);
    }
    let mut table = Table::new([
        "AT", "KIND", "INVITE", "CLIENT", "PROXY", "PORT", "REASON", "DETAIL",
    ]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for event in all {
        let subject = event.subject;
        table.row([
            event.at,
            subject.kind,
            or_dash(subject.invite),
            or_dash(subject.client),
            or_dash(subject.proxy),
            or_dash(subject.port.map(|port| port.to_string())),
            or_dash(subject.reason.map(|reason| reason.to_string())),
            subject.detail.to_string(),
        ]);
    }
    Ok(table.print()?)
}
