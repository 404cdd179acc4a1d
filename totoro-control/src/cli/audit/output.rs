//! Writing events.

use totoro_api::wire::event::AuditEvent;
use totoro_cli::{event, out};

use super::super::CliError;

/// An event as a line of its own: JSON, or words with `-` for what it does not say.
pub(super) fn line(event: AuditEvent, as_json: bool) -> Result<Vec<u8>, CliError> {
    let text = if as_json {
        serde_json::to_string(&event)
            .map_err(|error| CliError::Failed(format!("cannot write JSON: {error}")))?
    } else {
        event::line(event::cells(event))
    };
    Ok(format!("{text}\n").into_bytes())
}

/// Says which segments could not be read as a whole.
pub(super) fn warn_of_damage(damaged: &[String]) {
    for name in damaged {
        out::warn(format_args!("totoro-control: {}", event::damage(name)));
    }
}
