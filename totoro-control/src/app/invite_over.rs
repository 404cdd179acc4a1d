//! Invites that are over: named to their node for a month, so that whoever comes with one is told why;
//! then forgotten, but for the trail. And how many a node may have.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use totoro_api::Reason;

use super::{App, Failure};
use crate::push::{self, REMEMBER_S, desired_invite};
use crate::records::{Change, InviteRecord, NodeRecord, key};
use crate::store::{StoreError, Tx, names};

/// Marks an invite that is over since `at`, Unix seconds, to be forgotten.
pub(super) fn over(tx: &mut Tx<'_>, id: &str, at: i64) -> Result<(), StoreError> {
    tx.put(&key::invite_over(at + REMEMBER_S, id), &())
}

/// How many invites each node has, counted when first asked for.
#[derive(Default)]
pub(super) struct Crowd(Mutex<HashMap<String, usize>>);

impl Crowd {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a node has so many more.
    pub(super) fn joined(&self, node: &str, more: usize) {
        if let Some(count) = self.lock().get_mut(node) {
            *count += more;
        }
    }

    /// Has a node counted anew, when it is asked for.
    pub(super) fn forget(&self, node: &str) {
        self.lock().remove(node);
    }
}

impl App {
    /// Whether a node may have `more` invites. Requests under way are not counted: as many may come
    /// on top.
    pub(super) fn has_room_for(&self, node: &str, more: usize) -> Result<(), Failure> {
        let most = usize::try_from(self.config.invites_per_node).unwrap_or(usize::MAX);
        let known = self.crowd.lock().get(node).copied();
        let count = match known {
            Some(count) => count,
            None => {
                let count = names(&*self.store, &key::invites_of(node))?.len();
                *self.crowd.lock().entry(node.to_owned()).or_insert(count)
            }
        };
        if count + more <= most {
            return Ok(());
        }
        Err(Failure::refused(
            Reason::NodeFull,
            format!(
                "the node has {count} invites of at most {most} (invites_per_node); those that are \
                 over are forgotten after {} days",
                REMEMBER_S / 86_400
            ),
        ))
    }

    /// Forgets invites that were over for long enough.
    pub(super) async fn forget_invites(&self) -> Result<(), Failure> {
        let now = self.now();
        let nodes = Mutex::new(HashSet::new());
        let forgetting = self.forget_due(key::INVITES_OVER, |tx, id| {
            let Some(found) = tx.get::<InviteRecord>(&key::invite(id))? else {
                return Ok(());
            };
            let record = found.value;
            // It was given more time since; its next end has a mark of its own.
            if desired_invite(&record, now).is_some() {
                return Ok(());
            }
            tx.delete(&key::invite(id));
            tx.delete(&key::code(&record.code));
            tx.delete(&format!("{}{id}", key::invites_of(&record.node)));
            if tx.get::<NodeRecord>(&key::node(&record.node))?.is_some() {
                push::touch(tx, &record.node, &Change::Invite(id.to_owned()))?;
            }
            let mut nodes = nodes.lock().unwrap_or_else(PoisonError::into_inner);
            nodes.insert(record.node);
            Ok(())
        });
        forgetting.await?;
        for node in nodes.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.crowd.forget(&node);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::invite_change::IfMatch;
    use crate::app::tests::Lab;
    use crate::store::read;

    /// Moves the end of an invite, and its mark, back in time.
    async fn age(lab: &Lab, id: &str, seconds: i64) {
        let store = &*lab.app.store;
        let marks = names(store, key::INVITES_OVER).unwrap();
        let (mark, _) = (marks.iter().map(|mark| mark.split_once('/').unwrap()))
            .map(|(at, of)| (at.parse::<i64>().unwrap(), of))
            .find(|(_, of)| *of == id)
            .expect("a mark");
        let mut tx = Tx::new(store);
        let mut record: InviteRecord = tx.get(&key::invite(id)).unwrap().unwrap().value;
        assert_eq!(record.revoked_at, Some(mark - REMEMBER_S), "{marks:?}");
        record.revoked_at = Some(mark - REMEMBER_S - seconds);
        tx.put(&key::invite(id), &record).unwrap();
        tx.delete(&key::invite_over(mark, id));
        tx.put(&key::invite_over(mark - seconds, id), &()).unwrap();
        store.commit(tx.into_commit()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_over_is_forgotten_after_a_month() {
        let lab = Lab::new().await;
        let node = lab.node("n1").await;
        let (stays, goes) = (lab.invite(&node, "a").await, lab.invite(&node, "b").await);
        for invite in [&stays, &goes] {
            let revoking = lab.app.revoke_invite(&lab.admin, &invite.id, IfMatch::Any);
            revoking.await.unwrap();
        }
        age(&lab, &goes.id, REMEMBER_S + 2).await;
        age(&lab, &stays.id, REMEMBER_S - 60).await;
        let stood = lab.app.policy_revision(&node).unwrap();
        lab.app.forget_invites().await.unwrap();

        let store = &*lab.app.store;
        let left = names(store, &key::invites_of(&node)).unwrap();
        assert_eq!(left, std::slice::from_ref(&stays.id));
        let record = |id: &str| read::<InviteRecord>(store, &key::invite(id)).unwrap();
        assert!(record(&goes.id).is_none() && record(&stays.id).is_some());
        let known = |code: &Option<String>| lab.app.knows_code(code.as_ref().unwrap()).unwrap();
        assert!(!known(&goes.code) && known(&stays.code));
        // The node is told that it is no more, and of nothing else.
        let told = lab.app.newer(&node, Some(stood)).unwrap().unwrap();
        assert_eq!((told.gone, told.invites.len()), (vec![goes.id], 0));
        // Nothing is left to do.
        let stood = lab.app.policy_revision(&node).unwrap();
        lab.app.forget_invites().await.unwrap();
        assert_eq!(lab.app.policy_revision(&node).unwrap(), stood);
    }

    #[tokio::test]
    async fn what_was_given_more_time_stays() {
        let lab = Lab::new().await;
        let node = lab.node("n1").await;
        let invite = lab.invite(&node, "a").await;
        let mut tx = Tx::new(&*lab.app.store);
        tx.put(&key::invite_over(1, &invite.id), &()).unwrap();
        lab.app.store.commit(tx.into_commit()).await.unwrap();
        lab.app.forget_invites().await.unwrap();
        assert!(lab.app.knows_code(&invite.code.unwrap()).unwrap());
        assert!(
            names(&*lab.app.store, key::INVITES_OVER)
                .unwrap()
                .is_empty()
        );
    }
}
