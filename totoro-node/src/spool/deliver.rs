//! Carrying the spool to the control plane, in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::Notify;
use totoro_api::Reason;
use totoro_api::wire::event::EventsAccepted;

use super::{Spool, may_renew};
use crate::control::{Backoff, CallError, Control};

/// How often the spool is looked at when nobody says that there is something.
const IDLE: Duration = Duration::from_secs(5);

/// Delivers for ever; `wake` says that something was appended.
pub async fn run(spool: Spool, control: Arc<Control>, wake: Arc<Notify>) {
    let mut backoff = Backoff::default();
    loop {
        match step(&spool, &control).await {
            Ok(true) => backoff.reset(),
            Ok(false) => {
                backoff.reset();
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

/// Delivers one batch; whether there was one.
async fn step(spool: &Spool, control: &Control) -> Result<bool> {
    let reading = spool.clone();
    let batch = tokio::task::spawn_blocking(move || reading.batch()).await??;
    let Some(last) = batch.events.last().map(|event| event.seq) else {
        return Ok(false);
    };
    let sent = control.post::<EventsAccepted>("/nodes/events", &batch);
    let accepted = match sent.await {
        Err(error) if is_conflict(&error) && may_renew(&batch.events[0]) => {
            let renewing = spool.clone();
            tokio::task::spawn_blocking(move || renewing.renew()).await??;
            return Ok(true);
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
    Ok(true)
}

/// Whether the control plane misses events before those that were sent.
fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(CallError::Refused { code, .. }) if code == Reason::Conflict.code()
    )
}
