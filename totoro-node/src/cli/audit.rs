//! `audit`: this node's part of the trail.

use anyhow::Result;
use totoro_api::wire::event::AuditPage;

use super::table::{Table, json};
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
        let mut query = vec![("limit", (args.limit - all.len()).min(200).to_string())];
        for (name, value) in [
            ("invite", &args.invite),
            ("kind", &args.kind),
            ("cursor", &next),
        ] {
            if let Some(value) = value {
                query.push((name, value.clone()));
            }
        }
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)))
            .collect();
        let page: AuditPage = control
            .get(&format!("/nodes/audit?{}", query.join("&")))
            .await?;
        all.extend(page.items);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if as_json {
        return json(&all);
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
    table.print();
    Ok(())
}

/// Percent-encodes what a query may not have (RFC 3986, 2.3: all but the unreserved).
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
