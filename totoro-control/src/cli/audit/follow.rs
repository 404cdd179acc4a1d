//! `audit --follow`: what is there, then what arrives, across restarts of the control plane.

use std::collections::BTreeSet;
use std::time::Duration;

use totoro_api::wire::event::AuditPage;
use totoro_cli::{event, out};

use super::super::CliError;
use super::super::client::Client;
use super::output::{line, warn_of_damage};
use super::{Parameters, fetch, path};

/// How long one request waits for events; below the client's own patience.
const WAIT: &str = "20s";
/// The rest before an unreachable control plane is tried again, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Shows the newest `first` events, or with `None` all that match, and then what arrives.
pub(super) async fn run(
    client: &Client,
    query: Parameters,
    first: Option<usize>,
    as_json: bool,
) -> Result<(), CliError> {
    let mut warned = BTreeSet::new();
    let mut cursor = None;
    if let Some(first) = first {
        // With none to show one is asked for all the same: it tells where the trail ends.
        let mut page = fetch(client, &query, first.max(1), true).await?;
        if first == 0 {
            page.items.clear();
        }
        cursor = page.follow.take();
        if !show(page, as_json, &mut warned)? {
            return Ok(());
        }
    }
    let mut rest = RETRY.0;
    loop {
        let more = vec![
            ("limit", Some(event::PAGE.to_string())),
            ("wait", Some(WAIT.to_owned())),
            ("cursor", cursor.clone()),
        ];
        match client.get::<AuditPage>(&path(&query, more)).await {
            Ok(mut page) => {
                rest = RETRY.0;
                cursor = page.next.take().or(page.follow.take()).or(cursor);
                if !show(page, as_json, &mut warned)? {
                    return Ok(());
                }
            }
            Err(CliError::Unreachable { url, source }) => {
                out::warn(format_args!(
                    "totoro-control: {url} is not reached ({source}); trying again"
                ));
                tokio::time::sleep(rest).await;
                rest = (rest * 2).min(RETRY.1);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes a page; `false` when nobody reads it any more.
fn show(page: AuditPage, as_json: bool, warned: &mut BTreeSet<String>) -> Result<bool, CliError> {
    let mut damaged = page.damaged;
    damaged.retain(|name| warned.insert(name.clone()));
    warn_of_damage(&damaged);
    for event in page.items {
        if !out::write(&line(event, as_json)?)? {
            return Ok(false);
        }
    }
    Ok(true)
}
