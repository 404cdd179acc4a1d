//! `audit`: the trail, oldest first; as a table, as it grows, or whole as NDJSON.

mod follow;
mod output;

use clap::Args;
use reqwest::Method;
use totoro_api::wire::event::AuditPage;
use totoro_cli::{Table, back, event, out, print_json};

use self::output::warn_of_damage;
use super::client::{Client, with_query};
use super::{CliError, Remote};

/// How many are shown unasked: in a table, and before following.
const USUAL: (usize, usize) = (200, 10);
/// One event a line.
const NDJSON: &str = "application/x-ndjson";

/// The audit trail, oldest first. Without --since: the newest events.
#[derive(Args)]
#[command(after_help = "\
Examples:
  totoro-control audit --node n1 --since 1h
  totoro-control audit --invite inv-4k2v9x0c7m1p --kind session. --json
  totoro-control audit --reason max_conns --limit 20
  totoro-control audit --follow --node n1
  totoro-control audit --ndjson --since 2030-01-01T00:00:00Z --until 2030-02-01T00:00:00Z > january.ndjson")]
pub(super) struct Audit {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    filter: Filter,
    /// How many at most. [default: 200; 10 before following; all with --ndjson]
    #[arg(long)]
    limit: Option<usize>,
    /// Show new events as they arrive, until interrupted; with --json or --ndjson one a line.
    #[arg(long, conflicts_with = "until")]
    follow: bool,
    /// Write all events that match as NDJSON, one a line: an export.
    #[arg(long)]
    ndjson: bool,
}

/// Which events.
#[derive(Args)]
struct Filter {
    /// Of this node, by id or name.
    #[arg(long)]
    node: Option<String>,
    /// Of this invite.
    #[arg(long)]
    invite: Option<String>,
    /// Of this session.
    #[arg(long)]
    session: Option<String>,
    /// Of this kind (`invite.created`), or of all that begin so (`session.`).
    #[arg(long)]
    kind: Option<String>,
    /// Refused for this reason.
    #[arg(long)]
    reason: Option<String>,
    /// Not before: 2030-01-31T12:00:00Z, or a duration back from now.
    #[arg(long)]
    since: Option<String>,
    /// Before: 2030-01-31T12:00:00Z, or a duration back from now.
    #[arg(long)]
    until: Option<String>,
}

impl Audit {
    pub(super) async fn run(self) -> Result<(), CliError> {
        let client = self.remote.client()?;
        let query = self.filter.query()?;
        let newest = self.filter.since.is_none();
        if self.follow {
            let as_json = self.remote.json || self.ndjson;
            let first = newest.then_some(self.limit.unwrap_or(USUAL.1));
            return follow::run(&client, query, first, as_json).await;
        }
        if self.ndjson {
            return export(&client, query, self.limit).await;
        }
        let page = fetch(&client, &query, self.limit.unwrap_or(USUAL.0), newest).await?;
        warn_of_damage(&page.damaged);
        if self.remote.json {
            return Ok(print_json(&page)?);
        }
        let mut table = Table::new(event::HEAD);
        for event in page.items {
            table.row(event::cells(event));
        }
        Ok(table.print()?)
    }
}

/// Parameters of a query.
type Parameters = Vec<(&'static str, Option<String>)>;

impl Filter {
    /// The parameters; times that are durations are counted from now, once.
    fn query(&self) -> Result<Parameters, CliError> {
        let time = |flag, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| time_back(flag, text)).transpose()
        };
        Ok(vec![
            ("node", self.node.clone()),
            ("invite", self.invite.clone()),
            ("session", self.session.clone()),
            ("kind", self.kind.clone()),
            ("reason", self.reason.clone()),
            ("since", time("--since", &self.since)?),
            ("until", time("--until", &self.until)?),
        ])
    }
}

fn path(query: &Parameters, more: Parameters) -> String {
    let all: Parameters = query.iter().cloned().chain(more).collect();
    with_query("/admin/audit", &all)
}

/// The first events, or the newest, at most `limit`.
async fn fetch(
    client: &Client,
    query: &Parameters,
    limit: usize,
    newest: bool,
) -> Result<AuditPage, CliError> {
    let ask = async |want: usize, cursor| {
        let more = vec![
            ("newest", newest.then(|| "true".to_owned())),
            ("limit", Some(want.to_string())),
            ("cursor", cursor),
        ];
        client.get(&path(query, more)).await
    };
    event::gather(limit, newest, ask).await
}

/// Writes the lines as they come.
async fn export(client: &Client, query: Parameters, limit: Option<usize>) -> Result<(), CliError> {
    let more = vec![("limit", limit.map(|limit| limit.to_string()))];
    let mut response = client
        .open(Method::GET, &path(&query, more), NDJSON)
        .await?;
    while let Some(part) = client.part(&mut response).await? {
        if !out::write(&part)? {
            break;
        }
    }
    Ok(())
}

fn time_back(flag: &'static str, text: &str) -> Result<String, CliError> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    back(text, now).map_err(|why| CliError::Usage(format!("{flag}: {why}")))
}
