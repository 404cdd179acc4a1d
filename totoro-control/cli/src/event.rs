//! Events of the audit trail, as people read them.

use totoro_api::wire::event::{AuditEvent, AuditPage};

/// Events in one request.
pub const PAGE: usize = 1000;

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

/// The first events, or the newest, at most `limit`, oldest first: page by page of what `ask` answers for so many
/// events and a cursor.
///
/// # Errors
/// The first that `ask` has.
pub async fn gather<E>(
    limit: usize,
    newest: bool,
    ask: impl AsyncFn(usize, Option<String>) -> Result<AuditPage, E>,
) -> Result<AuditPage, E> {
    let mut all = AuditPage::default();
    while all.items.len() < limit {
        let want = (limit - all.items.len()).min(PAGE);
        let page = ask(want, all.next.take()).await?;
        // Of the newest the next page is the one before.
        let at = if newest { 0 } else { all.items.len() };
        all.items.splice(at..at, page.items);
        all.follow = all.follow.or(page.follow);
        all.damaged.extend(page.damaged);
        all.next = page.next;
        if all.next.is_none() {
            break;
        }
    }
    all.damaged.sort();
    all.damaged.dedup();
    Ok(all)
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
    use std::convert::Infallible;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// What is gathered of a trail of 2,500 events, of which a page has 1,000 at most.
    fn gathered(limit: usize, newest: bool) -> Vec<usize> {
        let event = |id: usize| {
            let event = serde_json::json!({
                "id": id.to_string(), "at": "", "actor": {"kind": "node"}, "kind": "x",
            });
            serde_json::from_value::<AuditEvent>(event).unwrap()
        };
        let ask = async |want: usize, cursor: Option<String>| {
            let done = cursor.map_or(0, |cursor| cursor.parse().unwrap());
            let end = (done + want).min(2_500);
            let ids = if newest {
                2_500 - end..2_500 - done
            } else {
                done..end
            };
            Ok::<_, Infallible>(AuditPage {
                items: ids.map(event).collect(),
                next: (end < 2_500).then(|| end.to_string()),
                ..AuditPage::default()
            })
        };
        let all = pin!(gather(limit, newest, ask));
        let Poll::Ready(Ok(all)) = all.poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("nothing is waited for");
        };
        let ids = all.items.iter().map(|event| event.id.parse().unwrap());
        ids.collect()
    }

    #[test]
    fn pages_are_put_together_oldest_first() {
        assert!(gathered(0, true).is_empty());
        assert!(gathered(2_200, false).into_iter().eq(0..2_200));
        assert!(gathered(2_200, true).into_iter().eq(300..2_500));
        assert!(
            gathered(9_999, true).into_iter().eq(0..2_500),
            "all there are"
        );
    }

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
