//! Policy taking effect: what was pushed, and what time brings.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use totoro_api::ports::Pool;
use totoro_api::ticket::Revision;
use totoro_api::wire::push::{Applied, DesiredState};

use super::align::Concerns;
use super::desk::{Desk, Inner};
use super::failures::Failures;
use super::kept;
use crate::store::{Changes, Place};

impl Desk {
    /// Where the applied policy stands.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.lock().policy.revision
    }

    /// In what the kernel is not in line with what is decided.
    #[must_use]
    pub fn untidy(&self) -> Option<String> {
        self.lock().untidy.clone()
    }

    /// The pool that holds now.
    #[must_use]
    pub fn pool(&self) -> Pool {
        self.lock().policy.node.pool.clone()
    }

    /// Where this node stands, and what of it does not hold yet.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.lock().applied()
    }

    /// Applies what was pushed: cuts first, the rest after, durable before it returns. What the
    /// kernel or the disk refuses is told of in the answer and tried again; the policy holds all the
    /// same.
    ///
    /// # Errors
    /// What was pushed cannot hold here: the last good policy does.
    pub fn apply(&self, pushed: DesiredState) -> Result<Applied> {
        // Before the revision is durable that they came with: after a crash they come again.
        for session in &pushed.kicks {
            self.kick_pushed(session);
        }
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        // What changed is written; all of it where the kernel may have something else.
        let snapshot = pushed.snapshot;
        let whole = snapshot || inner.untidy.is_some();
        let invites = pushed.invites.iter().map(|invite| &invite.id);
        let changed = invites.chain(&pushed.gone).map(|id| Arc::from(id.as_str()));
        let changed: Vec<Arc<str>> = changed.collect();
        let brings_keys = pushed.keys.is_some();
        let everyone = pushed.node.is_some() || pushed.bans.is_some();
        let (own, now) = (&self.rules.own_ports, now_ms / 1000);
        let before = inner.policy.revision;
        // In its place: the other invites are neither copied nor looked at.
        let replaced = if snapshot {
            let next = inner.policy.replaced(pushed, own, now);
            let next = Arc::new(next.map_err(|why| anyhow!(why))?);
            Some(std::mem::replace(&mut inner.policy, next))
        } else {
            let changed = Arc::make_mut(&mut inner.policy).change(pushed, own, now);
            changed.map_err(|why| anyhow!(why))?;
            None
        };
        // Adopted before anything can fail: whoever was revoked must not come back because somebody
        // else's socket could not be destroyed. What memory has, its records follow at once: a panic
        // in what comes next must not leave a revision in memory alone.
        let mut policy = Changes::default();
        let next = &inner.policy;
        let unusable = next.keys.listed().len() - next.keys.usable().count();
        if brings_keys && unusable > 0 {
            tracing::warn!(
                unusable,
                "ticket keys can't be read by this version; tickets that they sign are refused"
            );
        }
        kept::put(&mut policy, next, (!snapshot).then_some(&*changed));
        if let Some(replaced) = replaced {
            kept::drop_gone(&mut policy, &replaced, next);
        }
        self.flush_policy(inner, policy);
        let mut changes = Changes::default();
        if whole {
            self.align(inner, &mut changes, now_ms);
        } else {
            let concerns = match everyone {
                true => Concerns::All,
                false => Concerns::Since(before),
            };
            self.adopt(inner, &changed, concerns, &mut changes, now_ms);
        }
        self.flush_policy(inner, changes);
        let _ = self.settled(desk);
        Ok(self.applied())
    }

    /// Puts what is of the policy, or follows from it, behind all that was decided.
    pub(super) fn flush_policy(&self, inner: &mut Inner, changes: Changes) {
        self.flush(inner, changes);
        inner.policy_place = Some(self.commits.last());
    }

    /// Ends a session that the control plane wants ended. One that is not there has ended, by
    /// itself or by an earlier push of the same kick.
    fn kick_pushed(&self, session: &str) {
        if !self
            .lock()
            .sessions
            .iter()
            .any(|(_, one)| one.id == session)
        {
            return;
        }
        match self.kick(session) {
            Ok(()) => tracing::info!(session, "kicked by the control plane"),
            // Its leases and tickets have ended all the same; its connection is swept.
            Err(error) => {
                tracing::error!(
                    error = format!("{error:#}"),
                    session,
                    "a kick did not fully take"
                );
            }
        }
    }

    /// Ends what time has ended; called often, so it writes nothing to the kernel when nothing is.
    pub(super) fn expire(
        &self,
        inner: &mut Inner,
        changes: &mut Changes,
        now_ms: i64,
        failures: &mut Failures,
    ) {
        let due = inner.ends.due(now_ms / 1000);
        let tenants: BTreeSet<Arc<str>> = due
            .filter_map(|run_id| Some(inner.sessions.get(run_id)?.tenant.clone()))
            .collect();
        if !tenants.is_empty() {
            let policy = Arc::clone(&inner.policy);
            let tenants: Vec<Arc<str>> = tenants.into_iter().collect();
            self.enforce(inner, &policy, Some(&tenants), changes, now_ms, failures);
        }
    }
}

impl Inner {
    fn applied(&self) -> Applied {
        // What is being written is not durable either.
        let waits = || {
            let durable = self.policy_place.as_ref().is_some_and(Place::is_durable);
            (!durable).then(|| "the policy holds, but can't be made durable yet".to_owned())
        };
        Applied {
            revision: self.policy.revision,
            // The control plane signs with one of these: what can't be used here is not among them.
            keys: self.policy.keys.usable().map(str::to_owned).collect(),
            error: self.untidy.clone().or_else(waits),
        }
    }
}
