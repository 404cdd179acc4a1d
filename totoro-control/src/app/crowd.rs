//! How many invites a node may have. Room is held before the commit that fills it, so requests at
//! the same time do not all see the same room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use totoro_api::Reason;

use super::{App, Failure};
use crate::records::key;
use crate::store::names;

/// How many invites each node has, counted when first asked for, and how many are being made.
#[derive(Clone, Default)]
pub(super) struct Crowd(Arc<Mutex<Nodes>>);

#[derive(Default)]
struct Nodes {
    counted: HashMap<String, Counted>,
    /// Invites that requests under way may still make. No more are, where a node is not named.
    held: HashMap<String, usize>,
    /// How often something was forgotten: what was counted across that is not kept.
    forgotten: u64,
}

#[derive(Clone, Copy)]
struct Counted {
    invites: usize,
    /// What [`Nodes::forgotten`] was: a node's next count has another.
    since: u64,
}

/// Whether there is room.
enum Asked {
    Room(Room),
    /// The node has so many, or is about to.
    Full(usize),
    /// The node must be counted, and [`Nodes::forgotten`] still be this after it.
    Uncounted(u64),
}

impl Crowd {
    fn lock(&self) -> MutexGuard<'_, Nodes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, node: &str, more: usize, most: usize) -> Asked {
        let mut nodes = self.lock();
        let Some(&Counted { invites, since }) = nodes.counted.get(node) else {
            return Asked::Uncounted(nodes.forgotten);
        };
        let has = invites.saturating_add(nodes.held.get(node).copied().unwrap_or(0));
        if has.saturating_add(more) > most {
            return Asked::Full(has);
        }
        *nodes.held.entry(node.to_owned()).or_default() += more;
        Asked::Room(Room {
            crowd: self.clone(),
            node: node.to_owned(),
            more,
            since,
            filled: false,
        })
    }

    fn counted(&self, node: &str, invites: usize, since: u64) {
        let mut nodes = self.lock();
        if nodes.forgotten == since {
            let counted = Counted { invites, since };
            nodes.counted.insert(node.to_owned(), counted);
        }
    }

    /// Has a node counted anew, when it is asked for.
    pub(super) fn forget(&self, node: &str) {
        self.lock().forget(node);
    }
}

impl Nodes {
    fn forget(&mut self, node: &str) {
        self.counted.remove(node);
        self.forgotten += 1;
    }
}

/// Room for invites that are being made. Dropped unfilled, it is free again, and the node is counted
/// anew: what became of the commit may not be known.
pub(super) struct Room {
    crowd: Crowd,
    node: String,
    more: usize,
    /// The count that it was found in.
    since: u64,
    filled: bool,
}

impl Room {
    /// They are made: the commit is applied.
    pub(super) fn filled(mut self) {
        self.filled = true;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut nodes = self.crowd.lock();
        if let Some(held) = nodes.held.get_mut(&self.node) {
            *held -= self.more;
            if *held == 0 {
                nodes.held.remove(&self.node);
            }
        }
        match nodes.counted.get_mut(&self.node) {
            Some(counted) if self.filled && counted.since == self.since => {
                counted.invites += self.more;
            }
            // A count that was begun since may have them already, or not.
            _ => nodes.forget(&self.node),
        }
    }
}

impl App {
    /// Holds room for `more` invites of a node, those being made by others counted in.
    pub(super) fn room_for(&self, node: &str, more: usize) -> Result<Room, Failure> {
        let most = usize::try_from(self.config.invites_per_node).unwrap_or(usize::MAX);
        loop {
            match self.crowd.ask(node, more, most) {
                Asked::Room(room) => return Ok(room),
                Asked::Full(has) => {
                    let detail =
                        format!("the node has {has} invites of at most {most} (invites_per_node)");
                    return Err(Failure::refused(Reason::MaxInvites, detail));
                }
                Asked::Uncounted(since) => {
                    let invites = names(&*self.store, &key::invites_of(node))?.len();
                    self.crowd.counted(node, invites, since);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use totoro_api::wire::invite::NewInvite;

    use super::super::invite_change::IfMatch;
    use super::super::tests::Lab;
    use super::*;

    /// A node that may have so many.
    async fn lab(most: u32) -> (Lab, String, NewInvite) {
        let mut lab = Lab::new().await;
        let app = Arc::get_mut(&mut lab.app).unwrap();
        app.config.invites_per_node = most;
        let node = lab.node("n1").await;
        let new = NewInvite {
            node: Some(node.clone()),
            ..NewInvite::default()
        };
        (lab, node, new)
    }

    fn made(lab: &Lab, node: &str) -> usize {
        let of_node = key::invites_of(node);
        names(&*lab.app.store, &of_node).unwrap().len()
    }

    async fn until(holds: impl Fn() -> bool) {
        for _ in 0..1000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never held");
    }

    /// No room is held, and what is counted is what there is.
    fn is_right(lab: &Lab, node: &str) -> bool {
        let nodes = lab.app.crowd.lock();
        let counted = nodes.counted.get(node).map(|counted| counted.invites);
        nodes.held.is_empty() && counted.is_none_or(|counted| counted == made(lab, node))
    }

    #[tokio::test]
    async fn many_at_once_make_no_more_than_there_is_room_for() {
        let (lab, node, new) = lab(25).await;
        let one = || lab.app.create_invite(&lab.admin, &new, None).boxed();
        let singles = join_all((0..20).map(|_| one()));
        let batch = || lab.app.create_invites(&lab.admin, &new, 10, None);
        let batches = join_all((0..5).map(|_| batch()));
        let (batches, singles) = tokio::join!(batches, singles);
        let ten = batches.iter().filter(|made| made.is_ok()).count();
        let one_each = singles.iter().filter(|made| made.is_ok()).count();
        assert_eq!(made(&lab, &node), 10 * ten + one_each);
        assert!((1..=25).contains(&made(&lab, &node)));
        assert!(is_right(&lab, &node));
        // What was held for who was refused is free.
        for _ in made(&lab, &node)..25 {
            one().await.unwrap();
        }
        let refused = one().await.unwrap_err();
        let refused = refused.refusal().map(|refusal| refusal.reason);
        assert_eq!(refused, Some(Reason::MaxInvites));
    }

    #[tokio::test]
    async fn who_hangs_up_is_counted_all_the_same() {
        let (lab, node, new) = lab(13).await;
        for _ in 0..3 {
            let one = lab.app.create_invite(&lab.admin, &new, None);
            assert!(one.now_or_never().is_none(), "it waits for the disk");
        }
        let ten = lab.app.create_invites(&lab.admin, &new, 10, None);
        assert!(ten.now_or_never().is_none());
        // Counted while they are under way.
        lab.app.room_for(&node, 0).unwrap().filled();
        until(|| made(&lab, &node) == 13 && is_right(&lab, &node)).await;
        let one = lab.app.create_invite(&lab.admin, &new, None).await;
        assert!(one.is_err());
        assert_eq!(made(&lab, &node), 13);
    }

    #[tokio::test]
    async fn a_count_across_a_commit_is_not_kept() {
        let (lab, node, _) = lab(5).await;
        let count = |app: &App| match app.crowd.ask(&node, 9, 5) {
            Asked::Full(has) => Some(has),
            _ => None,
        };
        let room = lab.app.room_for(&node, 2).unwrap();
        assert_eq!(count(&lab.app), Some(2), "held");
        lab.app.crowd.forget(&node);
        let Asked::Uncounted(since) = lab.app.crowd.ask(&node, 1, 5) else {
            panic!("it was forgotten");
        };
        room.filled();
        lab.app.crowd.counted(&node, 0, since);
        assert_eq!(count(&lab.app), None, "whether they are in it is not known");
        drop(lab.app.room_for(&node, 5).unwrap());
        assert!(lab.app.room_for(&node, 6).is_err());
        assert!(is_right(&lab, &node));
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_node_that_was_deleted_by_who_hung_up() {
        let (lab, node, new) = lab(5).await;
        lab.app.create_invite(&lab.admin, &new, None).await.unwrap();
        lab.app.live.report(&node, Default::default());
        let deleting = lab.app.delete_node(&lab.admin, &node, IfMatch::Any, None);
        assert!(deleting.now_or_never().is_none());
        let gone = || lab.app.store.revision(key::gone(&node).as_bytes());
        until(|| gone().unwrap().is_some()).await;
        lab.app.sweep_gone().await.unwrap();
        assert!(lab.app.live.last(&node).is_none());
        assert!(!lab.app.crowd.lock().counted.contains_key(&node));
    }
}
