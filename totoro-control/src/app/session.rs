//! Who is on, as the nodes last reported it, and kicking: a one-shot change that the node is pushed
//! until it has applied it. A session's id is never used again, so a kick that arrives twice, or
//! late, hits nobody else. Of a node without a daemon the sessions are ours, and end here.

use serde_json::json;
use totoro_api::Reason;
use totoro_api::ticket::Revision;
use totoro_api::wire::event::kind;
use totoro_api::wire::session::{SessionEntry, SessionPage};

use super::idempotency::Idempotency;
use super::{App, Caller, Failure, Reach, checked_id};
use crate::audit;
use crate::push;
use crate::records::{Change, KickRecord, NodeRecord, key};
use crate::store::{StoreError, Tx, names, read, records};

/// How long a kick is remembered, seconds: for so long a repeat of it is no second one. One that its node
/// has not applied is looked at again after as long.
const KEPT_S: i64 = 86_400;
/// How long it waits for a node that is cut off, seconds: no session outlives it (`session_max` is 30 days at
/// most), so there is nothing left to end.
const WAITS_S: i64 = push::REMEMBER_S;
/// Kicks of one node that are remembered at most, applied or waiting.
const MAX_KICKS: usize = 1000;

impl App {
    /// A page of sessions within the caller's reach.
    ///
    /// # Errors
    /// `node_unknown`, a malformed cursor, or when the store fails.
    pub fn sessions(
        &self,
        caller: &Caller,
        node: Option<&str>,
        (cursor, limit): (Option<&str>, usize),
    ) -> Result<SessionPage, Failure> {
        let nodes = match (&caller.reach, node) {
            (Reach::All, None) => names(&*self.store, key::NODES)?,
            _ => vec![self.node_named(caller.node(node)?)?.value.id],
        };
        let after = match cursor.map(|cursor| cursor.split_once('.')) {
            None => ("", ""),
            Some(Some(after)) => after,
            Some(None) => return Err(Failure::malformed("query: cursor is none of ours")),
        };
        let mut items = Vec::new();
        for node in nodes.iter().filter(|node| node.as_str() >= after.0) {
            let mut of_node = self.sessions_of(node)?;
            of_node.retain(|session| (session.node.as_str(), session.id.as_str()) > after);
            items.extend(of_node);
            if items.len() > limit {
                break;
            }
        }
        let next = super::node::cut(&mut items, limit, |last| {
            format!("{}.{}", last.node, last.id)
        });
        Ok(SessionPage { items, next })
    }

    /// A node's sessions in the order of their ids.
    fn sessions_of(&self, node: &str) -> Result<Vec<SessionEntry>, StoreError> {
        let record = read::<NodeRecord>(&*self.store, &key::node(node))?;
        if record.is_some_and(|record| record.value.callback) {
            let mut sessions = self.callback_sessions(node)?;
            sessions.sort_by(|a, b| a.id.cmp(&b.id));
            return Ok(sessions);
        }
        let Some(seen) = self.live.last(node) else {
            return Ok(Vec::new());
        };
        let kicked = records::<KickRecord>(&*self.store, &key::kicks_of(node))?;
        let age_s = seen.at.elapsed().as_secs();
        let mut sessions = Vec::new();
        for tenant in &seen.heartbeat.tenants {
            sessions.extend(tenant.sessions.iter().map(|session| SessionEntry {
                id: session.id.clone(),
                node: node.to_owned(),
                tenant: tenant.tenant.clone(),
                client: session.client.clone(),
                since: session.since.clone(),
                frpc_version: session.frpc_version.clone(),
                kicked: kicked.iter().any(|(id, _)| *id == session.id),
                age_s,
            }));
        }
        sessions.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(sessions)
    }

    /// Ends a session, as soon as its node hears of it. Kicking it again changes nothing.
    ///
    /// # Errors
    /// `not_found` when the node has not reported it; `rate_limited` past the kicks that are
    /// remembered; `conflict`.
    pub async fn kick(
        &self,
        caller: &Caller,
        node: Option<&str>,
        session: &str,
        request: Option<Idempotency<'_>>,
    ) -> Result<(), Failure> {
        Self::checked_key(request)?;
        let node = self.node_named(caller.node(node)?)?.value.id;
        let session = checked_id(session)?;
        let at = key::kick(&node, session);
        let (now, now_ms) = (self.now(), self.now_ms());
        // Behind what the node's frps has asked: beside it this would never be first.
        let _turn = self.desk_turn(&node).await;
        self.transact(|tx| {
            let kicked = tx.get::<KickRecord>(&at)?.is_some();
            if self.repeated(tx, &node, request, session, now)? || kicked {
                return Ok(());
            }
            let known = self.sessions_of(&node)?;
            let known = known.into_iter().find(|entry| entry.id == session);
            let known = known.ok_or_else(|| {
                let detail =
                    "the node's last report names no such session; a new one is in the next";
                Failure::refused(Reason::NotFound, detail)
            })?;
            if tx.names(&key::kicks_of(&node))?.len() >= MAX_KICKS {
                let detail = format!(
                    "{MAX_KICKS} kicks of a day, or that the node is still to apply: ban the source, or \
                     revoke the invite"
                );
                return Err(Failure::refused(Reason::RateLimited, detail));
            }
            let record = tx.get::<NodeRecord>(&key::node(&node))?;
            // Where no daemon is, it is done here and now.
            let done = record.is_some_and(|record| record.value.callback);
            let until = Some(now + WAITS_S);
            tx.put(&at, &KickRecord { done, until })?;
            let ends = key::kick_end(now + KEPT_S, &format!("{node}/{session}"));
            tx.put(&ends, &())?;
            let event = caller.author.event(kind::SESSION_KICKED).node(&node);
            let event = event.session(session);
            let event = if known.tenant.starts_with(super::holder::PUBLIC) {
                event
            } else {
                event.invite(&known.tenant)
            };
            let detail = json!({ "tenant": known.tenant, "client": known.client });
            audit::record(tx, event.detail(detail), now_ms)?;
            if done {
                return Ok(self.kick_callback(tx, &node, session, &caller.author)?);
            }
            Ok(push::touch(tx, &node, &Change::Kicks)?)
        })
        .await?;
        Ok(())
    }

    /// The sessions that the node is still to end.
    pub(crate) fn desired_kicks(&self, node: &str) -> Result<Vec<String>, StoreError> {
        let kicks = records::<KickRecord>(&*self.store, &key::kicks_of(node))?;
        let waiting = kicks.into_iter().filter(|(_, kick)| !kick.value.done);
        Ok(waiting.map(|(session, _)| session).collect())
    }

    /// Kicks that a node which stands here has applied are done.
    pub(super) fn end_kicks(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        applied: Revision,
    ) -> Result<(), StoreError> {
        if applied.generation != self.generation {
            return Ok(());
        }
        for (session, kick) in records::<KickRecord>(&*self.store, &key::kicks_of(node))? {
            if !kick.value.done && kick.revision <= applied.rev {
                let done = KickRecord {
                    done: true,
                    ..kick.value
                };
                tx.put(key::kick(node, &session), &done)?;
            }
        }
        Ok(())
    }

    /// Forgets kicks whose day is over, but for those that their node has not applied: it was cut off, and
    /// has the session still.
    pub(super) async fn forget_kicks(&self) -> Result<(), Failure> {
        let now = self.now();
        self.forget_due(key::KICK_ENDS, |tx, kick| {
            let at = format!("{}{kick}", key::KICKS);
            match tx.get::<KickRecord>(&at)? {
                Some(found) if found.value.waits(now) => {
                    tx.put(key::kick_end(now + KEPT_S, kick), &())?;
                }
                _ => tx.delete(at),
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use totoro_api::wire::push::Applied;

    use super::*;
    use crate::app::tests::Lab;

    /// Everything that is to be forgotten later is due.
    async fn a_day_later(lab: &Lab) {
        let store = &*lab.app.store;
        let mut tx = Tx::new(store);
        for end in names(store, key::KICK_ENDS).unwrap() {
            let (_, kick) = end.split_once('/').unwrap();
            tx.delete(format!("{}{end}", key::KICK_ENDS));
            tx.put(key::kick_end(1, kick), &()).unwrap();
        }
        store.commit(tx.into_commit()).await.unwrap();
        lab.app.forget_kicks().await.unwrap();
    }

    fn kept(lab: &Lab, node: &str) -> Vec<String> {
        names(&*lab.app.store, &key::kicks_of(node)).unwrap()
    }

    #[tokio::test]
    async fn a_kick_waits_for_a_node_that_is_cut_off_and_is_forgotten_once_it_is_applied() {
        let lab = Lab::new().await;
        let node = lab.node("n1").await;
        let seen = json!({ "tenants": [{ "tenant": "inv_a", "sessions": [{ "id": "s-1" }] }] });
        lab.app
            .live
            .report(&node, serde_json::from_value(seen).unwrap());
        let kicked = lab.app.kick(&lab.admin, Some("n1"), "s-1", None).await;
        kicked.unwrap();
        for _ in 0..3 {
            a_day_later(&lab).await;
            assert_eq!(lab.app.desired_kicks(&node).unwrap(), ["s-1"]);
        }
        let caller = Caller {
            reach: Reach::Node(node.clone()),
            ..lab.admin.clone()
        };
        let applied = Applied {
            revision: lab.app.policy_revision(&node).unwrap(),
            ..Applied::default()
        };
        lab.app.applied(&caller, &applied).await.unwrap();
        assert!(lab.app.desired_kicks(&node).unwrap().is_empty());
        assert_eq!(kept(&lab, &node), ["s-1"], "a repeat is no second one");
        a_day_later(&lab).await;
        assert!(kept(&lab, &node).is_empty());
    }

    #[tokio::test]
    async fn a_kick_that_no_session_can_outlive_is_forgotten() {
        let lab = Lab::new().await;
        let (node, now) = (lab.node("n1").await, lab.app.now());
        let store = &*lab.app.store;
        let mut tx = Tx::new(store);
        let kicks = [
            ("s-1", json!({ "done": false, "until": now - 1 })),
            ("s-2", json!({ "done": false, "until": now + 60 })),
            // As an earlier version wrote them.
            ("s-3", json!({ "done": false })),
            ("s-4", json!({ "done": true })),
        ];
        for (session, kick) in kicks {
            tx.put(key::kick(&node, session), &kick).unwrap();
            let end = key::kick_end(now, &format!("{node}/{session}"));
            tx.put(end, &()).unwrap();
        }
        store.commit(tx.into_commit()).await.unwrap();
        for _ in 0..2 {
            a_day_later(&lab).await;
            assert_eq!(kept(&lab, &node), ["s-2", "s-3"]);
        }
    }
}
