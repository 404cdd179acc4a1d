//! `audit`: the trail, oldest first.

use clap::Args;
use totoro_api::wire::event::{AuditEvent, AuditPage};

use super::client::{Client, with_query};
use super::table::{Table, print_json};
use super::{CliError, Remote};
use crate::duration::Span;

/// Events in one request.
const PAGE: usize = 1000;

/// The audit trail, oldest first. Without --since: the newest events.
#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control audit --node n1 --since 1h
  totoro-control audit --invite inv-4k2v9x0c7m1p --kind session. --json
  totoro-control audit --reason max_conns --limit 20")]
pub(super) struct Audit {
    #[command(flatten)]
    remote: Remote,
    /// Of this node, by id or name.
    #[arg(long)]
    node: Option<String>,
    /// Of this invite.
    #[arg(long)]
    invite: Option<String>,
    /// Of this session.
    #[arg(long)]
    session: Option<String>,
    /// Of this kind, or of all that begin so: session.
    #[arg(long)]
    kind: Option<String>,
    /// Refused for this reason.
    #[arg(long)]
    reason: Option<String>,
    /// Not before: 2030-01-31T12:00:00Z, or a duration back from now.
    #[arg(long)]
    since: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 200)]
    limit: usize,
}

impl Audit {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let client = self.remote.client()?;
        let as_json = self.remote.json;
        let page = self.fetch(&client).await?;
        if as_json {
            return print_json(&page);
        }
        let mut table = Table::new([
            "AT", "KIND", "REASON", "NODE", "INVITE", "SESSION", "CLIENT", "DETAIL",
        ]);
        for event in page.items {
            table.row(cells(event));
        }
        table.print();
        Ok(())
    }

    async fn fetch(self, client: &Client) -> Result<AuditPage, CliError> {
        let since = self.since.as_deref().map(time_back).transpose()?;
        // Without a beginning the end is what people mean, and one page of it.
        let newest = since.is_none() && self.limit <= PAGE;
        let mut all = AuditPage::default();
        let mut cursor = None;
        while all.items.len() < self.limit {
            let want = (self.limit - all.items.len()).min(PAGE);
            let query = [
                ("node", self.node.clone()),
                ("invite", self.invite.clone()),
                ("session", self.session.clone()),
                ("kind", self.kind.clone()),
                ("reason", self.reason.clone()),
                ("since", since.clone()),
                ("newest", newest.then(|| "true".to_owned())),
                ("limit", Some(want.to_string())),
                ("cursor", cursor),
            ];
            let page: AuditPage = client.get(&with_query("/admin/audit", &query)).await?;
            all.items.extend(page.items);
            all.next.clone_from(&page.next);
            match page.next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        Ok(all)
    }
}

fn time_back(text: &str) -> Result<String, CliError> {
    match text.parse::<Span>() {
        Ok(span) => {
            let at = time::OffsetDateTime::now_utc() - span.0;
            Ok(totoro_api::ticket::rfc3339(at.unix_timestamp()))
        }
        Err(_) => super::limits::time("--since", text),
    }
}

fn cells(event: AuditEvent) -> [String; 8] {
    let subject = event.subject;
    let mut detail = match subject.detail {
        serde_json::Value::Null => String::new(),
        detail => detail.to_string(),
    };
    for (name, value) in [
        ("proxy", subject.proxy),
        ("port", subject.port.map(|port| port.to_string())),
        ("by", Some(event.actor.kind).filter(|kind| !kind.is_empty())),
    ] {
        if let Some(value) = value {
            detail = format!("{name}={value} {detail}");
        }
    }
    [
        event.at,
        subject.kind,
        subject
            .reason
            .map(|reason| reason.code().to_owned())
            .unwrap_or_default(),
        event.node.unwrap_or_default(),
        subject.invite.unwrap_or_default(),
        subject.session.unwrap_or_default(),
        subject.client.unwrap_or_default(),
        detail,
    ]
}
