//! Desired state: watch → apply → acknowledge.
//!
//! By long polls, not by the stream of events: they pass every proxy, where a node would have to find
//! out that one keeps a stream back and poll then all the same. They are told as fast.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use totoro_api::wire::push::DesiredState;

use crate::control::{Backoff, CallError, Control};
use crate::session::Desk;

/// How long one long poll waits at the control plane.
const WAIT: Duration = Duration::from_secs(30);

/// Watches for ever. What is applied is durable; an outage changes nothing that holds. `state_dir`
/// has the note of the ports that were reserved.
pub async fn run(desk: Arc<Desk>, control: Arc<Control>, state_dir: PathBuf) {
    let mut backoff = Backoff::default();
    // After a failure everything is asked for, so that nothing is missed for good.
    let mut whole = false;
    // The control plane signs with a key only once it knows that we have it.
    let mut acknowledged = false;
    loop {
        match step(&desk, &control, whole, acknowledged).await {
            Ok(complete) => {
                whole = false;
                reserve(&desk, &state_dir).await;
                // What the kernel refused is told again, until nothing is.
                acknowledged = complete;
                backoff.reset();
            }
            Err(error) => {
                // A refusal of ours was reported; only a whole state can help then.
                whole = !error.is::<CallError>();
                acknowledged = false;
                let wait = backoff.next(error.downcast_ref::<CallError>());
                tracing::warn!(
                    error = format!("{error:#}"),
                    ?wait,
                    "the last good policy holds; asking again later"
                );
                tokio::time::sleep(wait).await;
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

/// Waits for one push and applies it; whether all that is applied holds, and the control plane
/// knows.
async fn step(
    desk: &Arc<Desk>,
    control: &Control,
    whole: bool,
    acknowledged: bool,
) -> Result<bool> {
    let mut complete = acknowledged;
    let revision = desk.revision();
    let mut path = format!("/nodes/watch?wait={}s", WAIT.as_secs());
    if !whole && revision.rev != 0 {
        if !acknowledged {
            let applied = desk.applied();
            control.tell("/nodes/applied", &applied).await?;
            complete = applied.error.is_none();
        }
        let (generation, rev) = (revision.generation, revision.rev);
        path = format!("{path}&gen={generation}&rev={rev}");
    }
    let Some(pushed) = control.poll::<DesiredState>(&path, WAIT).await? else {
        return Ok(complete);
    };
    let (to, snapshot) = (pushed.revision, pushed.snapshot);
    let applying = Arc::clone(desk);
    let applied = tokio::task::spawn_blocking(move || applying.apply(pushed))
        .await
        .context("the applying task ended")?;
    match applied {
        Ok(applied) => {
            tracing::info!(
                rev = to.rev,
                generation = to.generation,
                snapshot,
                error = applied.error,
                "policy applied"
            );
            control.tell("/nodes/applied", &applied).await?;
            Ok(applied.error.is_none())
        }
        Err(error) => {
            let mut report = desk.applied();
            report.error = Some(format!("revision {}: {error:#}", to.rev));
            control.tell("/nodes/applied", &report).await?;
            Err(error.context(format!("revision {} can't be applied", to.rev)))
        }
    }
}
