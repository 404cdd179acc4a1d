//! Desired state: watch → apply → acknowledge.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use totoro_api::wire::push::{Applied, DesiredState};

use crate::control::{Backoff, CallError, Control};
use crate::session::Desk;

/// How long one long poll waits at the control plane.
const WAIT: Duration = Duration::from_secs(30);

/// Watches for ever. What is applied is durable; an outage changes nothing that holds.
pub async fn run(desk: Arc<Desk>, control: Arc<Control>) {
    let mut backoff = Backoff::default();
    // After a failure everything is asked for, so that nothing is missed for good.
    let mut whole = false;
    // The control plane signs with a key only once it knows that we have it.
    let mut acknowledged = false;
    loop {
        match step(&desk, &control, whole, acknowledged).await {
            Ok(()) => {
                whole = false;
                acknowledged = true;
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

async fn step(desk: &Arc<Desk>, control: &Control, whole: bool, acknowledged: bool) -> Result<()> {
    let revision = desk.revision();
    let path = if whole || revision.rev == 0 {
        format!("/nodes/watch?wait={}s", WAIT.as_secs())
    } else if acknowledged {
        let (generation, rev) = (revision.generation, revision.rev);
        format!(
            "/nodes/watch?wait={}s&gen={generation}&rev={rev}",
            WAIT.as_secs()
        )
    } else {
        control.tell("/nodes/applied", &standing(desk)).await?;
        let (generation, rev) = (revision.generation, revision.rev);
        format!(
            "/nodes/watch?wait={}s&gen={generation}&rev={rev}",
            WAIT.as_secs()
        )
    };
    let Some(pushed) = control.poll::<DesiredState>(&path, WAIT).await? else {
        return Ok(());
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
            control.tell("/nodes/applied", &applied).await
        }
        Err(error) => {
            let mut report = standing(desk);
            report.error = Some(format!("revision {}: {error:#}", to.rev));
            control.tell("/nodes/applied", &report).await?;
            Err(error.context(format!("revision {} can't be applied", to.rev)))
        }
    }
}

/// Where this node stands.
fn standing(desk: &Desk) -> Applied {
    let policy = desk.policy();
    Applied {
        revision: policy.revision,
        keys: policy.keys.iter().map(|key| key.kid.clone()).collect(),
        error: None,
    }
}
