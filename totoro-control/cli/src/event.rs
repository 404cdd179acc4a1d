//! Events of the audit trail, as people read them.

use totoro_api::wire::event::AuditEvent;

/// What [`cells`] are, as a table's head.
pub const HEAD: [&str; 8] = [
    "AT", "KIND", "REASON", "NODE", "INVITE", "SESSION", "CLIENT", "DETAIL",
];

/// An event as the cells of a table.
#[must_use]
pub fn cells(event: AuditEvent) -> [String; 8] {
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
            detail = format!("{name}={value} {detail}").trim_end().to_owned();
        }
    }
    let reason = subject.reason.map(|reason| reason.code().to_owned());
    [
        event.at,
        subject.kind,
        reason.unwrap_or_default(),
        event.node.unwrap_or_default(),
        subject.invite.unwrap_or_default(),
        subject.session.unwrap_or_default(),
        subject.client.unwrap_or_default(),
        detail,
    ]
}

/// Cells as a line of its own, where no table can wait for its end: `-` for what is not said.
#[must_use]
pub fn line(cells: impl IntoIterator<Item = String>) -> String {
    // Labels and addresses come from others: control characters could repaint the terminal.
    let clean = |cell: String| -> String {
        let cell: String = cell.chars().filter(|symbol| !symbol.is_control()).collect();
        if cell.is_empty() {
            "-".to_owned()
        } else {
            cell
        }
    };
    let cells: Vec<String> = cells.into_iter().map(clean).collect();
    cells.join("  ")
}

/// What to say of a segment of the trail that could not be read as a whole.
#[must_use]
pub fn damage(name: &str) -> String {
    format!(
        "audit segment {name} is damaged and events may be missing; restore it from a backup of the \
         control plane"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_that_no_terminal_obeys() {
        let event = serde_json::json!({
            "id": "0", "at": "2030-01-31T12:00:00Z", "node": "n1", "actor": {"kind": "node"},
            "kind": "conn.refused", "proxy": "a\u{1b}[2J", "port": 20000, "reason": "max_conns",
        });
        let cells = cells(serde_json::from_value(event).unwrap());
        assert_eq!(
            line(cells),
            "2030-01-31T12:00:00Z  conn.refused  max_conns  n1  -  -  -  by=node port=20000 proxy=a[2J"
        );
    }
}
