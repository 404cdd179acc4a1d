//! `audit`: this node's part of the trail, oldest first; as a table, or as it grows.

mod follow;

use anyhow::Result;
use totoro_api::wire::event::{AuditEvent, AuditPage};
use totoro_cli::{Table, event, out, print_json};

use super::query;
use crate::clock::machine_ms;
use crate::control::Control;

/// How many are shown unasked: in a table, and before following.
const USUAL: (usize, usize) = (200, 10);
/// Which of an event's cells is its node: the same in all rows here.
const NODE: usize = 3;

/// What to show.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Args {
    /// Only this invite's.
    #[arg(long)]
    invite: Option<String>,
    /// Only this session's.
    #[arg(long)]
    session: Option<String>,
    /// Only this kind, e.g. `session.closed`, or all that begin so, e.g. `session.`.
    #[arg(long)]
    kind: Option<String>,
    /// Only what was refused for this reason, e.g. `max_conns`.
    #[arg(long)]
    reason: Option<String>,
    /// Not before: 2030-01-31T12:00:00Z, or a span back from now.
    #[arg(long, value_parser = back, value_name = "TIME")]
    since: Option<String>,
    /// Before: 2030-01-31T12:00:00Z, or a span back from now.
    #[arg(long, value_parser = back, value_name = "TIME")]
    until: Option<String>,
    /// How many at most. [default: 200; 10 before following]
    #[arg(long)]
    limit: Option<usize>,
    /// Show new events as they arrive, until interrupted; with --json one a line.
    #[arg(long, conflicts_with = "until")]
    follow: bool,
}

impl Args {
    /// Where to ask for what was asked for, with these parameters, too.
    fn path(&self, more: &[(&str, Option<&str>)]) -> String {
        let mut all = vec![
            ("invite", self.invite.as_deref()),
            ("session", self.session.as_deref()),
            ("kind", self.kind.as_deref()),
            ("reason", self.reason.as_deref()),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
        ];
        all.extend(more);
        format!("/nodes/audit{}", query(&all))
    }

    /// Whether the newest ones are meant: where nobody said from when on.
    fn newest(&self) -> bool {
        self.since.is_none()
    }
}

/// Shows it, oldest first.
pub(super) async fn run(control: &Control, args: &Args, as_json: bool) -> Result<()> {
    if args.follow {
        return follow::run(control, args, as_json).await;
    }
    let page = fetch(control, args, args.limit.unwrap_or(USUAL.0)).await?;
    for name in &page.damaged {
        out::warn(format_args!("totoro-node: {}", event::damage(name)));
    }
    let whole = args.newest() || page.next.is_none();
    if as_json {
        print_json(&page.items)?;
    } else {
        let mut table = Table::of(own(event::HEAD.map(str::to_owned)));
        for event in page.items {
            table.push(cells(event));
        }
        table.print()?;
    }
    if !whole {
        out::warn(
            "totoro-node: there are later ones: --limit shows more, and without --since it is the \
             newest",
        );
    }
    Ok(())
}

/// The first events, or the newest, at most `limit`.
async fn fetch(control: &Control, args: &Args, limit: usize) -> Result<AuditPage> {
    let newest = args.newest();
    let ask = async |want: usize, cursor: Option<String>| {
        let path = args.path(&[
            ("newest", newest.then_some("true")),
            ("limit", Some(&want.to_string())),
            ("cursor", cursor.as_deref()),
        ]);
        control.get(&path).await
    };
    event::gather(limit, newest, ask).await
}

/// An event's cells, but for its node.
fn cells(event: AuditEvent) -> Vec<String> {
    own(event::cells(event))
}

fn own(cells: [String; 8]) -> Vec<String> {
    let mut cells = Vec::from(cells);
    cells.remove(NODE);
    cells
}

fn back(text: &str) -> Result<String, String> {
    totoro_cli::back(text, machine_ms() / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn read(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("audit").chain(line.split_whitespace());
        <Line as clap::Parser>::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn what_is_asked_for_is_asked_of_the_control_plane() {
        let args = read(
            "--since 2030-01-01T01:00:00+01:00 --until 2030-02-01T00:00:00Z --reason max_conns \
             --session ses_1 --kind session.",
        );
        assert_eq!(
            args.unwrap()
                .path(&[("limit", Some("7")), ("cursor", None)]),
            "/nodes/audit?session=ses_1&kind=session.&reason=max_conns\
             &since=2030-01-01T00%3A00%3A00Z&until=2030-02-01T00%3A00%3A00Z&limit=7"
        );
        assert!(read("").unwrap().newest());
        assert!(!read("--since 1h").unwrap().newest());
        assert!(read("--follow --until 1h").is_err(), "it would have an end");
        let said = read("--since yesterday").unwrap_err().to_string();
        assert!(said.contains("write 1h or"), "{said}");
    }

    #[test]
    fn the_nodes_own_name_is_left_out() {
        let head = own(event::HEAD.map(str::to_owned));
        assert_eq!(head.len(), 7);
        assert!(!head.contains(&"NODE".to_owned()));
    }
}
