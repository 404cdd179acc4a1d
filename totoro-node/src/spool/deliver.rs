//! Carrying the spool to the control plane, in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Notify;
use totoro_api::Reason;
use totoro_api::wire::event::EventsAccepted;

use super::{MAX_BATCH, Spool, may_renew};
use crate::control::{Backoff, CallError, Control};

/// How often the spool is looked at when nobody says that there is something.
const IDLE: Duration = Duration::from_secs(5);

/// For so long what comes next is gathered: each delivery is a request, and writes on either side.
const GATHER: Duration = Duration::from_millis(100);

/// What a step came to.
enum Step {
    /// There was nothing.
    Nothing,
    /// What there was is delivered.
    Delivered,
    /// So much that more may wait.
    Full,
}

/// Delivers for ever; `wake` says that something was appended. The first event goes at once.
pub async fn run(spool: Spool, control: Arc<Control>, wake: Arc<Notify>) {
    let mut backoff = Backoff::default();
    loop {
        let step = step(&spool, &control).await;
        if step.is_ok() {
            backoff.reset();
        }
        match step {
            Ok(Step::Full) => {}
            Ok(Step::Delivered) => tokio::time::sleep(GATHER).await,
            Ok(Step::Nothing) => {
                let _ = tokio::time::timeout(IDLE, wake.notified()).await;
            }
            Err(error) => {
                let call = error.downcast_ref::<CallError>();
                let wait = backoff.next(call);
                tracing::warn!(
                    error = format!("{error:#}"),
                    ?wait,
                    "events wait in the spool"
                );
                control.rest(wait, call).await;
            }
        }
    }
}

/// Delivers one batch, if there is one.
async fn step(spool: &Spool, control: &Control) -> Result<Step> {
    let reading = spool.clone();
    let batch = tokio::task::spawn_blocking(move || reading.batch()).await??;
    let Some(last) = batch.events.last().map(|event| event.seq) else {
        return Ok(Step::Nothing);
    };
    let sent = control.post::<EventsAccepted>("/nodes/events", &batch);
    let accepted = match sent.await {
        Err(error) if is_conflict(&error) && may_renew(&batch.events[0]) => {
            let renewing = spool.clone();
            tokio::task::spawn_blocking(move || renewing.renew()).await??;
            return Ok(Step::Full);
        }
        accepted => accepted?,
    };
    // Never beyond what was sent: an answer about another spool must not eat this one.
    let upto = accepted.seq.min(last);
    anyhow::ensure!(
        batch.events.iter().any(|event| event.seq <= upto),
        "the control plane has none of the events {}..={last}",
        batch.events[0].seq
    );
    let writing = spool.clone();
    tokio::task::spawn_blocking(move || writing.accepted(upto)).await??;
    let all = upto == last && batch.events.len() < MAX_BATCH;
    Ok(if all { Step::Delivered } else { Step::Full })
}

/// Whether the control plane misses events before those that were sent.
fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(CallError::Refused { code, .. }) if code == Reason::Conflict.code()
    )
}
