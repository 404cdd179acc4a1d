//! Invites that are over: named to their node for a month, so that whoever comes with one is told why;
//! then forgotten, but for the trail.

use std::collections::BTreeMap;

use super::janitor::MAX_DUE;
use super::{App, Failure};
use crate::push::{self, REMEMBER_S};
use crate::records::{Change, InviteRecord, NodeRecord, key};
use crate::store::{Range, StoreError, Tx, prefix_end};

/// Set once all invites that are over have their mark: earlier versions made none.
const MARKED: &str = "invites_over_marked";
/// Invites looked at in one commit.
const CHUNK: usize = 1000;

/// Marks an invite that is over at `now`, to be forgotten when its node does not name it any more.
pub(super) fn over(tx: &mut Tx<'_>, record: &InviteRecord, now: i64) -> Result<(), StoreError> {
    let Some(at) = record.over_since(now) else {
        return Ok(());
    };
    tx.put(key::invite_over(at + REMEMBER_S + 1, &record.id), &())
}

impl App {
    /// Forgets invites that were over for long enough. The entries of their codes stay: a code that is
    /// derived from the same request again must not be one of them.
    pub(super) async fn forget_invites(&self) -> Result<(), Failure> {
        loop {
            let now = self.now();
            let due = self.due(key::INVITES_OVER, now)?;
            let forgetting = self.transact(|tx| {
                let mut gone = BTreeMap::<String, Vec<String>>::new();
                for (at, mark) in &due {
                    tx.delete(at);
                    let Some((_, id)) = mark.split_once('/') else {
                        continue;
                    };
                    let Some(found) = tx.get::<InviteRecord>(&key::invite(id))? else {
                        continue;
                    };
                    let record = found.value;
                    match record.over_since(now) {
                        // It was given more time; its next end will have a mark of its own.
                        None => continue,
                        // And has ended again.
                        Some(since) if since + REMEMBER_S >= now => over(tx, &record, now)?,
                        Some(_) => {
                            tx.delete(key::invite(id));
                            tx.delete(format!("{}{id}", key::invites_of(&record.node)));
                            gone.entry(record.node).or_default().push(id.to_owned());
                        }
                    }
                }
                for (node, ids) in &gone {
                    if tx.get::<NodeRecord>(&key::node(node))?.is_none() {
                        continue;
                    }
                    for some in ids.chunks(Change::MAX_INVITES) {
                        push::touch(tx, node, &Change::Invites(some.to_vec()))?;
                    }
                }
                Ok(gone)
            });
            let (gone, _) = forgetting.await?;
            gone.keys().for_each(|node| self.crowd.forget(node));
            if due.len() < MAX_DUE {
                return Ok(());
            }
        }
    }

    /// Marks, once in a store's life, the invites that were over before there were marks.
    pub(super) async fn mark_over(&self) -> Result<(), Failure> {
        if self.store.revision(MARKED.as_bytes())?.is_some() {
            return Ok(());
        }
        let to = prefix_end(key::INVITES.as_bytes());
        let mut from = key::INVITES.as_bytes().to_vec();
        loop {
            let some = self.store.range(Range {
                from: &from,
                to: &to,
                limit: CHUNK,
                reverse: false,
            })?;
            let now = self.now();
            self.transact(|tx| {
                for (_, found) in &some {
                    if let Ok(record) = serde_json::from_slice(&found.value) {
                        over(tx, &record, now)?;
                    }
                }
                if some.len() < CHUNK {
                    tx.put(MARKED, &())?;
                }
                Ok(())
            })
            .await?;
            match some.last() {
                Some((last, _)) if some.len() == CHUNK => from = [last, &[0][..]].concat(),
                _ => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use totoro_api::Reason;
    use totoro_api::wire::invite::Invite;

    use super::*;
    use crate::app::invite_change::IfMatch;
    use crate::app::tests::Lab;
    use crate::store::{names, read};

    /// Moves the end of an invite, and its mark, back in time.
    async fn age(lab: &Lab, id: &str, seconds: i64) {
        let store = &*lab.app.store;
        let mark = mark_of(lab, id).expect("a mark");
        let mut tx = Tx::new(store);
        let mut record: InviteRecord = tx.get(&key::invite(id)).unwrap().unwrap().value;
        assert_eq!(record.revoked_at, Some(mark - REMEMBER_S - 1));
        record.revoked_at = Some(mark - REMEMBER_S - 1 - seconds);
        tx.put(key::invite(id), &record).unwrap();
        tx.delete(key::invite_over(mark, id));
        tx.put(key::invite_over(mark - seconds, id), &()).unwrap();
        store.commit(tx.into_commit()).await.unwrap();
    }

    /// When an invite is due.
    fn mark_of(lab: &Lab, id: &str) -> Option<i64> {
        let marks = names(&*lab.app.store, key::INVITES_OVER).unwrap();
        let mut marks = marks.iter().map(|mark| mark.split_once('/').unwrap());
        let mark = marks.find(|(_, of)| *of == id);
        mark.map(|(at, _)| at.parse().unwrap())
    }

    async fn revoked(lab: &Lab, node: &str, request: &str) -> Invite {
        let invite = lab.invite(node, request).await;
        let revoking = lab
            .app
            .revoke_invite(&lab.admin, &invite.id, IfMatch::Any, None);
        revoking.await.unwrap();
        invite
    }

    #[tokio::test]
    async fn what_is_over_is_forgotten_after_a_month() {
        let lab = Lab::new().await;
        let node = lab.node("n1").await;
        let stays = revoked(&lab, &node, "a").await;
        let goes = revoked(&lab, &node, "b").await;
        // To the second: what is due in this one goes, what was over a moment later does not.
        age(&lab, &goes.id, REMEMBER_S + 1).await;
        age(&lab, &stays.id, REMEMBER_S - 60).await;
        let stood = lab.app.policy_revision(&node).unwrap();
        lab.app.forget_invites().await.unwrap();

        let store = &*lab.app.store;
        let left = names(store, &key::invites_of(&node)).unwrap();
        assert_eq!(left, std::slice::from_ref(&stays.id));
        let record = |id: &str| read::<InviteRecord>(store, &key::invite(id)).unwrap();
        assert!(record(&goes.id).is_none() && record(&stays.id).is_some());
        // The node is told that it is no more, and of nothing else.
        let told = lab.app.newer(&node, Some(stood)).unwrap().unwrap();
        assert_eq!((told.gone, told.invites.len()), (vec![goes.id], 0));
        // Nothing is left to do.
        let stood = lab.app.policy_revision(&node).unwrap();
        lab.app.forget_invites().await.unwrap();
        assert_eq!(lab.app.policy_revision(&node).unwrap(), stood);
    }

    #[tokio::test]
    async fn a_forgotten_invites_code_never_comes_back() {
        let lab = Lab::new().await;
        let node = lab.node("n1").await;
        let first = revoked(&lab, &node, "guests").await;
        age(&lab, &first.id, REMEMBER_S + 1).await;
        lab.app.forget_invites().await.unwrap();
        lab.a_day_later().await;
        let second = lab.invite(&node, "guests").await;
        assert_ne!(second.id, first.id);
        assert_ne!(second.code, first.code);
        let usage = lab.app.usage(first.code.as_ref().unwrap());
        let reason = usage.unwrap_err().refusal().map(|refusal| refusal.reason);
        assert_eq!(reason, Some(Reason::InviteUnknown));
    }

    #[tokio::test]
    async fn what_was_given_more_time_stays_and_what_ended_again_waits() {
        let lab = Lab::new().await;
        let node = lab.node("n1").await;
        let lives = lab.invite(&node, "a").await;
        let ended = revoked(&lab, &node, "b").await;
        let due = mark_of(&lab, &ended.id).unwrap();
        let mut tx = Tx::new(&*lab.app.store);
        tx.put(key::invite_over(1, &lives.id), &()).unwrap();
        tx.put(key::invite_over(1, &ended.id), &()).unwrap();
        tx.delete(key::invite_over(due, &ended.id));
        lab.app.store.commit(tx.into_commit()).await.unwrap();
        lab.app.forget_invites().await.unwrap();
        assert_eq!(mark_of(&lab, &lives.id), None);
        assert_eq!(mark_of(&lab, &ended.id), Some(due));
        let left = names(&*lab.app.store, &key::invites_of(&node)).unwrap();
        assert_eq!(left.len(), 2);
    }

    #[tokio::test]
    async fn what_was_over_before_there_were_marks_gets_one() {
        let lab = Lab::new().await;
        let node = lab.node("n1").await;
        let (lives, ended) = (
            lab.invite(&node, "a").await,
            revoked(&lab, &node, "b").await,
        );
        let due = mark_of(&lab, &ended.id).unwrap();
        let mut tx = Tx::new(&*lab.app.store);
        tx.delete(key::invite_over(due, &ended.id));
        lab.app.store.commit(tx.into_commit()).await.unwrap();
        lab.app.mark_over().await.unwrap();
        assert_eq!(mark_of(&lab, &ended.id), Some(due));
        assert_eq!(mark_of(&lab, &lives.id), None);
        // Once in a store's life.
        let stood = lab.app.store.revision(MARKED.as_bytes()).unwrap();
        lab.app.mark_over().await.unwrap();
        assert_eq!(lab.app.store.revision(MARKED.as_bytes()).unwrap(), stood);
    }
}
