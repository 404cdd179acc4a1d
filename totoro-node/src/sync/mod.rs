//! Desired state: watch → apply → acknowledge.
//!
//! By long polls, not by the stream of events: they pass every proxy, where a node would have to find
//! out that one keeps a stream back and poll then all the same. They are told as fast.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::IgnoredAny;
use totoro_api::ticket::Revision;
use totoro_api::wire::push::{Applied, DesiredState};

use crate::control::{Backoff, CallError, Control};
use crate::session::Desk;

/// How long one long poll waits at the control plane.
const WAIT: Duration = Duration::from_secs(30);

/// The least time between two looks at a policy that can't hold: what is asked for is all of it.
const REFUSED: Duration = Duration::from_secs(1);

/// Where the node stands.
#[derive(Debug, Default)]
pub(crate) struct Stand {
    /// All that is applied holds, and the control plane knows. It signs with a key only once it
    /// knows that we have it; what the kernel refused is told again until nothing is.
    acknowledged: bool,
    /// The revision that can't hold here: the one before it does.
    refused: Option<Revision>,
    /// Applying a policy ended in a panic: how much of it holds is not known, so all of it is asked for.
    unsure: bool,
}

/// Watches for ever. What is applied is durable; an outage changes nothing that holds. `state_dir`
/// has the note of the ports that were reserved.
pub async fn run(desk: Arc<Desk>, control: Arc<Control>, state_dir: PathBuf) {
    let mut backoff = Backoff::default();
    let mut stand = Stand::default();
    loop {
        match step(&desk, &control, &mut stand).await {
            Ok(()) => {
                reserve(&desk, &state_dir).await;
                backoff.reset();
            }
            Err(error) => {
                stand.acknowledged = false;
                let call = error.downcast_ref::<CallError>();
                let wait = backoff.next(call);
                tracing::warn!(
                    error = format!("{error:#}"),
                    ?wait,
                    "the last good policy holds; asking again later"
                );
                control.rest(wait, call).await;
            }
        }
    }
}

/// Keeps the pool that holds now out of the kernel's ephemeral ports. Without it a port may be
/// picked as a source port now and then; that is told, and no reason to lend nothing.
async fn reserve(desk: &Desk, state_dir: &Path) {
    let (pool, dir) = (desk.pool(), state_dir.to_owned());
    let reserved = tokio::task::spawn_blocking(move || crate::reserve::reserve(&pool, &dir)).await;
    if let Ok(Err(error)) = reserved {
        tracing::warn!(
            error = format!("{error:#}"),
            "the pool can't be kept out of the ephemeral ports"
        );
    }
}

/// Waits for one push and applies it.
pub(crate) async fn step(desk: &Arc<Desk>, control: &Control, stand: &mut Stand) -> Result<()> {
    let revision = desk.revision();
    let mut from = None;
    if let Some(refused) = stand.refused {
        // Whoever mends the policy is not kept waiting; and what is mended on this machine shows when
        // a poll's time is over. Changes to a state that was not taken would be of no use.
        tokio::time::sleep(REFUSED).await;
        control
            .poll::<IgnoredAny>(&watch(Some(refused)), WAIT)
            .await?;
    } else if revision.rev != 0 && !stand.unsure {
        if !stand.acknowledged {
            let applied = desk.applied();
            control.tell("/nodes/applied", &applied).await?;
            stand.acknowledged = applied.error.is_none();
        }
        from = Some(revision);
    }
    let Some(pushed) = control.poll::<DesiredState>(&watch(from), WAIT).await? else {
        return Ok(());
    };
    let (to, snapshot) = (pushed.revision, pushed.snapshot);
    let applying = Arc::clone(desk);
    stand.unsure = true;
    let applied = tokio::task::spawn_blocking(move || applying.apply(pushed))
        .await
        .context("the applying task ended")?;
    stand.unsure = false;
    let report = match applied {
        Ok(applied) => {
            tracing::info!(
                rev = to.rev,
                generation = to.generation,
                snapshot,
                error = applied.error,
                "policy applied"
            );
            stand.refused = None;
            applied
        }
        Err(error) => {
            tracing::warn!(
                error = format!("{error:#}"),
                rev = to.rev,
                generation = to.generation,
                "this policy can't hold here, and the last good one does"
            );
            stand.refused = Some(to);
            Applied {
                error: Some(format!("revision {}: {error:#}", to.rev)),
                ..desk.applied()
            }
        }
    };
    stand.acknowledged = false;
    control.tell("/nodes/applied", &report).await?;
    stand.acknowledged = report.error.is_none();
    Ok(())
}

/// Asks for what is newer than that, or for everything.
fn watch(stands: Option<Revision>) -> String {
    let path = format!("/nodes/watch?wait={}s", WAIT.as_secs());
    match stands {
        Some(Revision { generation, rev }) => format!("{path}&gen={generation}&rev={rev}"),
        None => path,
    }
}
