//! Nodes, for people and as JSON.

use totoro_api::wire::node::{Node, NodeCreated, NodeState};
use totoro_cli::{Table, out, print_json, word};

use super::super::CliError;

/// A node that was made, or its new token.
pub(super) fn show_created(made: &NodeCreated, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return Ok(print_json(made)?);
    }
    out::line(format_args!("node    {}", made.id))?;
    out::line(format_args!("token   {}", made.token))?;
    out::line(format_args!(
        "        shown once, good once, until {}",
        made.token_expires_at
    ))?;
    out::line("next    on the node, with the token in TOTORO_TOKEN:")?;
    out::line("        totoro-node enroll --control URL --dir /etc/totoro")?;
    Ok(())
}

/// Many, a line each.
pub(super) fn print_table(nodes: &[Node]) -> Result<(), CliError> {
    let mut table = Table::new([
        "ID", "NAME", "STATE", "GRADE", "FOR", "POLICY", "APPLIED", "SEEN",
    ]);
    for node in nodes {
        table.row([
            node.id.clone(),
            node.name.clone(),
            state(node),
            node.known_grade
                .map_or_else(|| "-".to_owned(), |grade| word(&grade)),
            word(&node.visibility),
            node.policy.rev.to_string(),
            node.applied.revision.rev.to_string(),
            node.seen_s
                .map_or_else(|| "never".to_owned(), |seconds| format!("{seconds}s ago")),
        ]);
    }
    Ok(table.print()?)
}

/// One, with all that is known.
pub(super) fn print_node(node: &Node, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return Ok(print_json(node)?);
    }
    let mut table = Table::new(["FIELD", "VALUE"]);
    let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
    row("id", node.id.clone());
    row("name", node.name.clone());
    row("state", state(node));
    row("grade", grade(node));
    row("visibility", word(&node.visibility));
    for (name, text) in [
        ("region", &node.region),
        ("isp", &node.isp),
        ("tags", &node.tags.join(" ")),
        ("abuse contact", &node.abuse_contact),
    ] {
        if !text.is_empty() {
            row(name, text.clone());
        }
    }
    row("server_addr", node.server_addr.join(" "));
    row(
        "pool",
        format!("tcp {} udp {}", node.pool.tcp, node.pool.udp),
    );
    row(
        "policy",
        format!(
            "{} (applied {})",
            node.policy.rev, node.applied.revision.rev
        ),
    );
    row("ticket keys", node.applied.keys.join(" "));
    for (name, version) in &node.versions {
        row(name, version.clone());
    }
    for problem in &node.problems {
        row("problem", problem.clone());
    }
    for address in &node.unlisted {
        row("not listed", address.clone());
    }
    if node.known_grade.is_some() {
        for limit in &node.unenforced {
            row("unenforced", limit.clone());
        }
    }
    Ok(table.print()?)
}

/// Whether it serves; and that it is drained, which it is when it comes back, too.
fn state(node: &Node) -> String {
    let state = word(&node.state);
    match node.draining && node.state != NodeState::Draining {
        true => format!("{state}, draining"),
        false => state,
    }
}

/// How its limits are enforced, or why nobody knows.
fn grade(node: &Node) -> String {
    match node.known_grade {
        Some(grade) => word(&grade),
        None if node.instance.is_empty() => "- (not enrolled)".to_owned(),
        None => "- (has not reported since the control plane started)".to_owned(),
    }
}
