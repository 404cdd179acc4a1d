//! What happens by the passing of time: nodes fall silent, invites expire, the old is forgotten.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use totoro_api::Reason;
use totoro_api::wire::event::kind;

use super::{App, Failure, invite_over};
use crate::audit::{self, Author};
use crate::push;
use crate::records::{
    AppliedRecord, IdempotencyRecord, InviteRecord, NodeRecord, PresenceRecord, key,
};
use crate::store::{Range, Tx, names, prefix_end, read};

/// How often it looks.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between the rounds that need no hurry.
const SLOW: u64 = 60;
/// Marks handled in one round at most.
pub(super) const MAX_DUE: usize = 1000;

impl App {
    /// Runs until the process is asked to end.
    pub async fn keep_house(self: Arc<Self>) {
        // Beside the rest: a connect takes seconds where nobody answers.
        let reaching = tokio::spawn(Arc::clone(&self).keep_reaching());
        let mut stopping = self.stopping();
        if let Err(failure) = self.mark_over().await {
            tracing::error!(
                error = &failure as &dyn std::error::Error,
                "invites that were over before could not be marked; the next start tries it again"
            );
        }
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut count = 0_u64;
        let mut trimmed = 0;
        // Sessions that ping are looked at several times within what they may be silent for.
        let every = (self.ping_every().as_secs() / 6).max(1);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopping.wait_for(|&stop| stop) => break,
            }
            let mut done = vec![
                self.mark_lost().await,
                self.expire_invites().await,
                self.tell_bans().await,
                self.retire_keys().await,
                self.sweep_gone().await,
                self.tell_refusals(false).await,
            ];
            if count.is_multiple_of(every) {
                done.push(self.keep_sessions().await);
            }
            if count.is_multiple_of(SLOW) {
                done.push(self.forget_requests().await);
                done.push(self.forget_invites().await);
                done.push(self.forget_bans().await);
                done.push(self.end_old_keys().await);
                done.push(self.forget_kicks().await);
                done.push(self.keep_used().await);
                done.push(self.trim_logs(&mut trimmed).await);
                done.push(self.renew_keys().await);
                done.push(self.forget_callback().await);
            }
            count += 1;
            for failure in done.into_iter().filter_map(Result::err) {
                tracing::error!(
                    error = &failure as &dyn std::error::Error,
                    "housekeeping failed"
                );
            }
        }
        if let Err(error) = reaching.await {
            tracing::error!(%error, "reaching nodes ended badly");
        }
        if let Err(failure) = self.keep_used().await {
            tracing::warn!(
                error = &failure as &dyn std::error::Error,
                "when tokens were last used is not kept"
            );
        }
        // What was gathered in memory is told before it is gone.
        if let Err(failure) = self.tell_refusals(true).await {
            tracing::error!(
                error = &failure as &dyn std::error::Error,
                "the last refusals could not be told of"
            );
        }
    }

    /// Leaves `node.offline` for nodes that missed their heartbeats.
    async fn mark_lost(&self) -> Result<(), Failure> {
        for id in names(&*self.store, "presence/")? {
            // Heard a moment ago, as most are: their records are not read every second.
            if self.live.is_online(&id) {
                continue;
            }
            let at = key::presence(&id);
            let online = |record: crate::store::Record<PresenceRecord>| record.value.online;
            let node = read::<NodeRecord>(&*self.store, &key::node(&id))?;
            let calls = node.is_some_and(|node| node.value.callback);
            let calls = calls.then(|| self.ping_patience());
            let lost = || self.live.is_lost(&id, calls);
            if !lost() || !read(&*self.store, &at)?.is_some_and(online) {
                continue;
            }
            let now_ms = self.now_ms();
            self.transact(|tx| {
                if !lost() || !tx.get(&at)?.is_some_and(online) {
                    return Ok(());
                }
                tx.put(&at, &PresenceRecord::default())?;
                let event = Author::system().event(kind::NODE_OFFLINE).node(&id);
                Ok(audit::record(
                    tx,
                    event.reason(Reason::NodeOffline),
                    now_ms,
                )?)
            })
            .await?;
        }
        Ok(())
    }

    /// Leaves `invite.expired` for invites whose end has come. The node needs no telling: it was
    /// told the time.
    async fn expire_invites(&self) -> Result<(), Failure> {
        let now = self.now();
        for (at, mark) in self.due(key::EXPIRIES, now)? {
            let Some((_, id)) = mark.split_once('/') else {
                continue;
            };
            let now_ms = self.now_ms();
            self.transact(|tx| {
                tx.delete(&at);
                let invite = key::invite(id);
                let Some(record) = tx.get::<InviteRecord>(&invite)? else {
                    return Ok(());
                };
                if record.value.state_at(now) != totoro_api::wire::push::InviteState::Expired {
                    return Ok(());
                }
                let event = Author::system().event(kind::INVITE_EXPIRED);
                let event = event
                    .node(&record.value.node)
                    .invite(id)
                    .reason(Reason::InviteExpired);
                invite_over::over(tx, &record.value, now)?;
                Ok(audit::record(tx, event, now_ms)?)
            })
            .await?;
        }
        Ok(())
    }

    /// Forgets requests whose Idempotency-Key is past its day.
    pub(super) async fn forget_requests(&self) -> Result<(), Failure> {
        let now = self.now();
        self.forget_due(key::IDEMPOTENCY_ENDS, |tx, hash| {
            let record = key::idempotency(hash);
            let found = tx.get::<IdempotencyRecord>(&record)?;
            if found.is_some_and(|found| found.value.expires_at <= now) {
                tx.delete(&record);
            }
            Ok(())
        })
        .await
    }

    /// Takes away the marks under a prefix whose time has come, and what `forget` takes away for
    /// the key that each names: as many in one commit as a round handles.
    pub(super) async fn forget_due(
        &self,
        prefix: &str,
        forget: impl Fn(&mut Tx<'_>, &str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        loop {
            let due = self.due(prefix, self.now())?;
            self.transact(|tx| {
                for (at, mark) in &due {
                    tx.delete(at);
                    if let Some((_, key)) = mark.split_once('/') {
                        forget(tx, key)?;
                    }
                }
                Ok(())
            })
            .await?;
            if due.len() < MAX_DUE {
                return Ok(());
            }
        }
    }

    /// Trims the policy logs that have grown since the revision `trimmed`.
    async fn trim_logs(&self, trimmed: &mut u64) -> Result<(), Failure> {
        let mut newest = *trimmed;
        for id in names(&*self.store, key::NODES)? {
            let head = self.policy_revision(&id)?.rev;
            if head <= *trimmed {
                continue;
            }
            newest = newest.max(head);
            let applied = read::<AppliedRecord>(&*self.store, &key::applied(&id))?;
            let applied = applied
                .map(|record| record.value.revision)
                .filter(|applied| applied.generation == self.generation);
            let applied = applied.map_or(0, |applied| applied.rev);
            self.transact(|tx| Ok(push::trim(&*self.store, tx, &id, applied)?))
                .await?;
        }
        *trimmed = newest;
        Ok(())
    }

    /// Makes the next ticket key in time and pushes it; it signs once nodes have acknowledged it.
    ///
    /// # Errors
    /// When the key cannot be written or the store fails.
    pub async fn renew_keys(&self) -> Result<(), Failure> {
        {
            let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
            ring.renew(self.now())?;
        }
        self.tell_keys().await
    }

    /// Marks `<unix, 20 digits>/…` under a prefix whose time has come: whole key, and the rest of
    /// it after the prefix.
    pub(super) fn due(&self, prefix: &str, now: i64) -> Result<Vec<(String, String)>, Failure> {
        let to = prefix_end(format!("{prefix}{:020}/", now.max(0)).as_bytes());
        let range = Range {
            from: prefix.as_bytes(),
            to: &to,
            limit: MAX_DUE,
            reverse: false,
        };
        let marks = self.store.range(range)?.into_iter();
        Ok(marks
            .map(|(at, _)| {
                let at = String::from_utf8_lossy(&at).into_owned();
                let rest = at[prefix.len()..].to_owned();
                (at, rest)
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use totoro_api::ticket::rfc3339;
    use totoro_api::wire::invite::ChangeInvite;

    use super::*;
    use crate::app::invite_change::IfMatch;
    use crate::app::tests::Lab;
    use crate::audit::{Ask, Filter};

    #[tokio::test]
    async fn an_end_is_told_once_wherever_in_the_past_it_is_moved() {
        let lab = Lab::new().await;
        let node = lab.node("n1").await;
        let id = &lab.invite(&node, "a").await.id;
        let now = lab.app.now();
        let told = async |offset: i64| {
            let expires_at = Some(rfc3339(now + offset));
            let change = ChangeInvite {
                expires_at,
                ..ChangeInvite::default()
            };
            let changing = lab
                .app
                .change_invite(&lab.admin, id, IfMatch::Any, &change, None);
            changing.await.unwrap();
            lab.app.expire_invites().await.unwrap();
            let kind = Some(kind::INVITE_EXPIRED.to_owned());
            let ask = Ask {
                filter: Filter {
                    kind,
                    ..Filter::default()
                },
                limit: 10,
                ..Ask::default()
            };
            lab.app.trail.page(ask).await.unwrap().events.len()
        };
        // A month after its end it is to be forgotten.
        let due = |offset: i64| {
            let at = key::invite_over(now + offset + push::REMEMBER_S + 1, id);
            lab.app.store.revision(at.as_bytes()).unwrap().is_some()
        };
        for offset in [-100, -50, -200] {
            assert_eq!(told(offset).await, 1, "{offset}");
            assert!(due(offset), "{offset}");
        }
        // Each life has its end.
        assert_eq!(told(3600).await, 1);
        assert_eq!(told(-10).await, 2);
        assert_eq!(told(-20).await, 2);
    }
}
