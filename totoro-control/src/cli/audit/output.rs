//! Writing events.

use totoro_api::wire::event::AuditEvent;
use totoro_cli::out;

use super::super::CliError;

/// An event as the cells of a table.
pub(super) fn cells(event: AuditEvent) -> [String; 8] {
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

/// An event as a line of its own: JSON, or words with `-` for what it does not say.
pub(super) fn line(event: AuditEvent, as_json: bool) -> Result<Vec<u8>, CliError> {
    let text = if as_json {
        serde_json::to_string(&event)
            .map_err(|error| CliError::Failed(format!("cannot write JSON: {error}")))?
    } else {
        // Labels and addresses come from others: control characters could repaint the terminal.
        let clean = |cell: String| -> String {
            let cell: String = cell.chars().filter(|symbol| !symbol.is_control()).collect();
            if cell.is_empty() {
                "-".to_owned()
            } else {
                cell
            }
        };
        cells(event).map(clean).join("  ")
    };
    Ok(format!("{text}\n").into_bytes())
}

/// Says which segments could not be read as a whole.
pub(super) fn warn_of_damage(damaged: &[String]) {
    for name in damaged {
        out::warn(format_args!(
            "totoro-control: audit segment {name} is damaged and events may be missing; restore it \
             from a backup"
        ));
    }
}
