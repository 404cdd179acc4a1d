//! `audit --follow`: what is there, then what arrives, across restarts of the control plane.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use reqwest::StatusCode;
use totoro_api::wire::event::AuditPage;
use totoro_cli::{event, out};

use super::{Args, USUAL, cells, fetch};
use crate::control::{Backoff, CallError, Control};

/// How long one request waits for events.
const WAIT: Duration = Duration::from_secs(20);
/// The least rest before a control plane that failed is asked again, and the longest but for its own wish.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Shows the newest events, or all since a time, and then what arrives.
pub(super) async fn run(control: &Control, args: &Args, as_json: bool) -> Result<()> {
    let mut warned = BTreeSet::new();
    let mut cursor = None;
    if args.newest() {
        let first = args.limit.unwrap_or(USUAL.1);
        // With none to show one is asked for all the same: it tells where the trail ends.
        let mut page = fetch(control, args, first.max(1)).await?;
        if first == 0 {
            page.items.clear();
        }
        cursor = page.follow.take();
        if !show(page, as_json, &mut warned)? {
            return Ok(());
        }
    }
    let (limit, wait) = (event::PAGE.to_string(), format!("{}s", WAIT.as_secs()));
    let mut backoff = Backoff::default();
    loop {
        let path = args.path(&[
            ("limit", Some(&limit)),
            ("wait", Some(&wait)),
            ("cursor", cursor.as_deref()),
        ]);
        match control.poll::<AuditPage>(&path, WAIT).await {
            Ok(page) => {
                backoff.reset();
                let mut page = page.unwrap_or_default();
                cursor = page.next.take().or(page.follow.take()).or(cursor);
                if !show(page, as_json, &mut warned)? {
                    return Ok(());
                }
            }
            Err(error) => {
                let failed = error.downcast_ref::<CallError>();
                if !failed.is_some_and(passes) {
                    return Err(error);
                }
                let rest = backoff.next_within(failed, RETRY.1).max(RETRY.0);
                out::warn(format_args!("totoro-node: {error:#}; trying again"));
                tokio::time::sleep(rest).await;
            }
        }
    }
}

/// Whether a failure may be over soon: a restart, say. What was asked wrongly stays wrong.
fn passes(error: &CallError) -> bool {
    match error {
        CallError::Unreachable(..) => true,
        CallError::Refused { status, .. } => {
            *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
        }
        CallError::Unreadable(..) => false,
    }
}

/// Writes a page; `false` when nobody reads it any more.
fn show(page: AuditPage, as_json: bool, warned: &mut BTreeSet<String>) -> Result<bool> {
    for name in page.damaged {
        let told = format!("totoro-node: {}", event::damage(&name));
        if warned.insert(name) {
            out::warn(told);
        }
    }
    for event in page.items {
        let line = match as_json {
            true => serde_json::to_string(&event)?,
            false => event::line(cells(event)),
        };
        if !out::write(format!("{line}\n"))? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_wrongly_is_not_asked_again() {
        let refused = |status| CallError::Refused {
            status,
            code: String::new(),
            detail: String::new(),
            next: String::new(),
            retry_after: None,
        };
        assert!(passes(&refused(StatusCode::SERVICE_UNAVAILABLE)));
        assert!(passes(&refused(StatusCode::TOO_MANY_REQUESTS)));
        assert!(!passes(&refused(StatusCode::BAD_REQUEST)));
        assert!(!passes(&refused(StatusCode::UNAUTHORIZED)));
    }
}
