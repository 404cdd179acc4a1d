//! Removing a node. It is gone with one commit: its key, its name and its codes open nothing from
//! then on. What it leaves, a million invites perhaps, is swept after it, piece by piece; a mark
//! says that it is to be done, so a crash in between costs nothing.

use serde_json::json;
use totoro_api::Reason;
use totoro_api::wire::event::kind;
use totoro_api::wire::push::InviteState;

use super::idempotency::{Idempotency, WHOLE};
use super::invite_change::IfMatch;
use super::{App, Caller, Failure, callback, invite_over};
use crate::audit::{self, Author};
use crate::records::{GoneRecord, InviteRecord, NodeRecord, key};
use crate::store::{Range, Tx, names, prefix_end, read};

/// Invites or records swept in one commit.
const CHUNK: usize = 500;
/// Commits that the request itself waits for; the rest follows.
const AT_ONCE: usize = 4;

impl App {
    /// Removes a node and revokes its invites, whose records stay for a month. Its daemon is told
    /// nothing any more: to cut what lives, disable the node first.
    ///
    /// # Errors
    /// `not_found`; a stale or missing version; `conflict`.
    pub async fn delete_node(
        &self,
        caller: &Caller,
        id: &str,
        version: IfMatch,
        request: Option<Idempotency<'_>>,
    ) -> Result<(), Failure> {
        Self::checked_key(request)?;
        let (now, now_ms) = (self.now(), self.now_ms());
        self.transact(|tx| {
            let found = tx.get::<NodeRecord>(&key::node(id))?;
            if let Some(found) = &found {
                version.said(found.revision)?;
            }
            if self.repeated(tx, WHOLE, request, id, now)? {
                return Ok(());
            }
            let found = found.ok_or(Reason::NotFound)?;
            version.check(found.revision)?;
            let node = found.value;
            tx.delete(key::node(id));
            tx.delete(key::node_name(&node.said.name));
            let keys = [node.key, node.old_key.map(|old| old.hash)];
            for hash in keys.into_iter().flatten() {
                tx.delete(key::node_key(&hash));
            }
            if let Some(token) = node.enrolment {
                tx.delete(key::enrolment(&token));
            }
            tx.delete(key::presence(id));
            tx.delete(key::reach(id));
            tx.delete(key::applied(id));
            // Whoever follows it is told at once that there is nothing to follow any more.
            tx.delete(key::policy_head(id));
            let Author { actor, request_id } = caller.author.clone();
            tx.put(key::gone(id), &GoneRecord { actor, request_id })?;
            let event = caller.author.event(kind::ADMIN_NODE_DELETED).node(id);
            let detail = json!({ "name": node.said.name, "visibility": node.said.visibility });
            Ok(audit::record(tx, event.detail(detail), now_ms)?)
        })
        .await?;
        for _ in 0..AT_ONCE {
            if self.sweep(id).await? {
                break;
            }
        }
        Ok(())
    }

    /// Goes on with what nodes left that are gone.
    pub(super) async fn sweep_gone(&self) -> Result<(), Failure> {
        for id in names(&*self.store, key::GONE)? {
            self.sweep(&id).await?;
        }
        Ok(())
    }

    /// Sweeps one piece of what a node left. True when nothing is left.
    async fn sweep(&self, id: &str) -> Result<bool, Failure> {
        let Some(gone) = read::<GoneRecord>(&*self.store, &key::gone(id))? else {
            return Ok(true);
        };
        // With each piece: whoever deleted it may have hung up, and a heartbeat have come late.
        self.live.forget(id);
        self.crowd.forget(id);
        let GoneRecord { actor, request_id } = gone.value;
        let author = Author { actor, request_id };
        let of_node = key::invites_of(id);
        let invites = self.some_of(&of_node)?;
        if !invites.is_empty() {
            let (now, now_ms) = (self.now(), self.now_ms());
            self.transact(|tx| {
                for at in &invites {
                    let invite = String::from_utf8_lossy(&at[of_node.len()..]).into_owned();
                    tx.delete_raw(at.clone());
                    revoke(tx, &author, &invite, (now, now_ms))?;
                }
                Ok(())
            })
            .await?;
            return Ok(false);
        }
        let left = [
            key::bans_of(id),
            key::kicks_of(id),
            key::spools_of(id),
            key::policy(id),
            callback::all_of(id),
        ];
        for prefix in &left {
            let some = self.some_of(prefix)?;
            if !some.is_empty() {
                self.transact(|tx| {
                    some.iter().for_each(|at| tx.delete_raw(at.clone()));
                    Ok(())
                })
                .await?;
                return Ok(false);
            }
        }
        self.transact(|tx| {
            tx.delete(key::gone(id));
            Ok(())
        })
        .await?;
        Ok(true)
    }

    /// The first keys under a prefix.
    fn some_of(&self, prefix: &str) -> Result<Vec<Vec<u8>>, Failure> {
        let to = prefix_end(prefix.as_bytes());
        let entries = self.store.range(Range {
            from: prefix.as_bytes(),
            to: &to,
            limit: CHUNK,
            reverse: false,
        })?;
        Ok(entries.into_iter().map(|(at, _)| at).collect())
    }
}

/// Revokes an invite whose node is gone, with its event. Who revoked it before has told it.
fn revoke(
    tx: &mut Tx<'_>,
    author: &Author,
    id: &str,
    (now, now_ms): (i64, i64),
) -> Result<(), Failure> {
    let Some(record) = tx.get::<InviteRecord>(&key::invite(id))? else {
        return Ok(());
    };
    let mut record = record.value;
    if record.state == InviteState::Revoked {
        return Ok(());
    }
    record.state = InviteState::Revoked;
    record.revoked_at = Some(now);
    record.epoch += 1;
    if let Some(at) = record.expires_at {
        tx.delete(key::expiry(at, id));
    }
    tx.put(key::invite(id), &record)?;
    invite_over::over(tx, &record, now)?;
    let event = author.event(kind::INVITE_REVOKED);
    let event = event.node(&record.node).invite(id);
    let detail = json!({ "why": "the node was deleted" });
    Ok(audit::record(tx, event.detail(detail), now_ms)?)
}
