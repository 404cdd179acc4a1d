//! Carrying the spool to the control plane, in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tokio::sync::Notify;
use totoro_api::Reason;
use totoro_api::wire::event::EventsAccepted;

use super::{MAX_BATCH, Oldest, Spool, Why, may_renew, parse};
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

/// Delivers for ever; `wake` says that something was appended. The first event goes at once. `settle` has
/// what was delivered be forgotten on the disk, together with what else is on its way there: a write of
/// the spool's own would keep decisions waiting.
pub async fn run<S>(spool: Spool, control: Arc<Control>, wake: Arc<Notify>, settle: impl Fn() -> S)
where
    S: Future<Output = Result<()>>,
{
    let mut backoff = Backoff::default();
    let mut is_known = false;
    loop {
        let step = match settle().await {
            Ok(()) => step(&spool, &control, &mut is_known).await,
            Err(error) => Err(error),
        };
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

impl Oldest {
    /// An [`totoro_api::wire::event::EventBatch`] of them as they were written: to read each only to write it
    /// again costs more than all else here.
    pub(super) fn batch(&self) -> Vec<u8> {
        let events = self.events.iter().map(|(_, event)| event.len() + 1);
        let mut batch = Vec::with_capacity(events.sum::<usize>() + 128);
        let (spool, after) = (Value::from(&*self.spool), self.after);
        batch.extend(format!(r#"{{"spool":{spool},"after":{after},"events":["#).bytes());
        for (_, event) in &self.events {
            batch.extend_from_slice(event);
            batch.push(b',');
        }
        batch.pop_if(|last| *last == b',');
        batch.extend(b"]}");
        batch
    }

    /// Whether a new name can help.
    fn may_renew(&self) -> bool {
        let first = self.events.first();
        first.is_some_and(|(seq, event)| parse(*seq, event).is_ok_and(|first| may_renew(&first)))
    }
}

/// Delivers one batch, if there is one. Before the first the control plane is asked how far the spool is there.
async fn step(spool: &Spool, control: &Control, is_known: &mut bool) -> Result<Step> {
    let reading = spool.clone();
    let (oldest, batch) = tokio::task::spawn_blocking(move || {
        let oldest = reading.oldest()?;
        let batch = oldest.batch();
        anyhow::Ok((oldest, batch))
    })
    .await??;
    let (Some((first, _)), Some((last, _))) = (oldest.events.first(), oldest.events.last()) else {
        return Ok(Step::Nothing);
    };
    if !*is_known {
        // What was written since may have gone beyond what was there before.
        let (name, next) = &spool.found;
        let nothing = Oldest {
            spool: name.clone(),
            after: 0,
            events: Vec::new(),
        };
        let is_ahead = *name == oldest.spool && send(control, nothing.batch()).await?.seq >= *next;
        *is_known = true;
        if is_ahead {
            return renewed(spool, Why::Ahead).await;
        }
    }
    let accepted = match send(control, batch).await {
        Err(error) if is_conflict(&error) && oldest.may_renew() => {
            return renewed(spool, Why::Missed).await;
        }
        accepted => accepted?,
    };
    // A machine that was put back to an earlier moment while it ran.
    if spool.is_behind(&oldest.spool, accepted.seq) {
        return renewed(spool, Why::Ahead).await;
    }
    // Never beyond what was sent: an answer about another spool must not eat this one.
    let upto = accepted.seq.min(*last);
    anyhow::ensure!(
        *first <= upto,
        "the control plane has none of the events {first}..={last}"
    );
    let writing = spool.clone();
    tokio::task::spawn_blocking(move || writing.accepted(upto)).await??;
    let all = upto == *last && oldest.events.len() < MAX_BATCH;
    Ok(if all { Step::Delivered } else { Step::Full })
}

/// Sends a batch.
async fn send(control: &Control, batch: Vec<u8>) -> Result<EventsAccepted> {
    control.post_json("/nodes/events", batch).await
}

/// Has the spool go on under another name, and what waits be delivered by it.
async fn renewed(spool: &Spool, why: Why) -> Result<Step> {
    let renewing = spool.clone();
    tokio::task::spawn_blocking(move || renewing.renew(why)).await??;
    Ok(Step::Full)
}

/// Whether the control plane misses events before those that were sent.
fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(CallError::Refused { code, .. }) if code == Reason::Conflict.code()
    )
}
