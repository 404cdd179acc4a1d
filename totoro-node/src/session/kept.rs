//! The applied policy as the store has it: invites are records of their own, so that a change writes
//! what it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use totoro_api::ports::Pool;
use totoro_api::ticket::Revision;
use totoro_api::wire::push::{Ban, DesiredNode, TicketKey};

use super::policy::{Policy, Tombstone};
use crate::store::{Changes, Get, INVITES, META, Store};

/// Key in `META`: the applied policy without its invites.
const POLICY: &str = "applied_policy";
/// Key in `META`: all of it, as earlier versions wrote it. It is left as it is: one of those that is
/// put back goes on from there, and what that one writes is taken.
const WHOLE: &str = "policy";
/// Key in `META`: the revision of [`WHOLE`] when it was last looked at; `null` = there was none.
const SEEN: &str = "policy_seen";

/// A [`Policy`] but for its invites.
#[derive(Serialize)]
struct Head<'a> {
    revision: Revision,
    node: &'a DesiredNode,
    bans: &'a [Ban],
    keys: &'a [TicketKey],
    revoked: &'a BTreeMap<String, Tombstone>,
}

/// What there is of the policy that was applied last.
struct Found {
    /// This version's, without invites.
    head: Option<Policy>,
    /// An earlier version's.
    whole: Option<Policy>,
    /// Whether that one was applied later.
    later: bool,
    /// The revision of that one when it was last looked at.
    seen: Option<Option<Revision>>,
}

fn find(from: &impl Get) -> Result<Found> {
    let head = from.get::<Policy>(META, POLICY)?;
    let whole = from.get::<Policy>(META, WHOLE)?;
    let seen = from.get::<Option<Revision>>(META, SEEN)?;
    let there = whole.as_ref().map(|whole| whole.revision);
    let later = match (&head, seen) {
        (None, _) => true,
        (Some(_), Some(seen)) => there != seen,
        // Before it was noted what was seen. Generations have no order.
        (Some(Policy { revision: ours, .. }), None) => {
            there.is_some_and(|there| there.generation == ours.generation && there.rev > ours.rev)
        }
    };
    Ok(Found {
        head,
        whole,
        later,
        seen,
    })
}

/// Reads the policy that was applied last, if any was; and what is yet to be written of it, where an
/// earlier version applied it.
pub(super) fn read(store: &Store) -> Result<(Option<Policy>, Changes)> {
    let Found {
        head,
        whole,
        later,
        seen,
    } = find(store)?;
    let there = whole.as_ref().map(|whole| whole.revision);
    let mut changes = Changes::default();
    if seen != Some(there) {
        changes.put(META, SEEN, &there);
    }
    let invites = store.all(INVITES)?.into_iter().collect();
    let head = head.map(|head| Policy { invites, ..head });
    match whole {
        Some(whole) if later => {
            put(&mut changes, &whole, None);
            drop_gone(&mut changes, &head.unwrap_or_default(), &whole);
            Ok((Some(whole), changes))
        }
        _ => Ok((head, changes)),
    }
}

/// Reads the pool that was applied last, for loading the programs, or for who only looks.
///
/// # Errors
/// The disk.
pub fn stored_pool(from: &impl Get, otherwise: &Pool) -> Result<Pool> {
    let found = find(from)?;
    let whole = found.whole.filter(|_| found.later);
    let policy = whole.or(found.head);
    Ok(policy.map_or_else(|| otherwise.clone(), |policy| policy.node.pool))
}

/// Writes a policy: of its invites these, where it follows on what is there; else all.
pub(super) fn put(changes: &mut Changes, next: &Policy, changed: Option<&[Arc<str>]>) {
    let Policy {
        revision,
        node,
        invites,
        bans,
        keys,
        revoked,
    } = next;
    let head = Head {
        revision: *revision,
        node,
        bans,
        keys: keys.listed(),
        revoked,
    };
    changes.put(META, POLICY, &head);
    let Some(changed) = changed else {
        for (id, invite) in invites {
            changes.put(INVITES, id.as_str(), invite);
        }
        return;
    };
    for id in changed {
        match invites.get(id.as_ref()) {
            Some(invite) => changes.put(INVITES, &**id, invite),
            None => changes.remove(INVITES, &**id),
        }
    }
}

/// Removes the records of invites that the policy before had, and this one has not.
pub(super) fn drop_gone(changes: &mut Changes, before: &Policy, next: &Policy) {
    for id in before.invites.keys() {
        if !next.invites.contains_key(id) {
            changes.remove(INVITES, id.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use totoro_api::limits::Limits;
    use totoro_api::wire::push::{DesiredInvite, InviteState};

    use super::*;
    use crate::store::Left;

    /// Each revision with a pool of its own.
    fn policy(rev: u64, invites: &[(&str, u32)]) -> Policy {
        let pool = Pool {
            tcp: (20_000 + rev).to_string().parse().unwrap(),
            ..Pool::default()
        };
        let invite = |(id, epoch): &(&str, u32)| {
            let invite = DesiredInvite {
                id: (*id).to_owned(),
                state: InviteState::Active,
                epoch: *epoch,
                limits: Limits::default(),
                expires_at: None,
            };
            ((*id).to_owned(), invite)
        };
        Policy {
            revision: Revision { generation: 1, rev },
            invites: invites.iter().map(invite).collect(),
            ..Policy::initial(pool)
        }
    }

    /// What an earlier version does when it applies a policy.
    fn write_whole(store: &Store, policy: &Policy) {
        let mut changes = Changes::default();
        changes.put(META, WHOLE, policy);
        store.commit(&changes).unwrap();
    }

    /// What a start does.
    fn open(store: &Store) -> Option<Policy> {
        let (policy, changes) = read(store).unwrap();
        let pool = policy.as_ref().map(|policy| policy.node.pool.clone());
        let none = Pool::default();
        assert_eq!(stored_pool(store, &none).unwrap(), pool.unwrap_or(none));
        store.commit(&changes).unwrap();
        let (again, changes) = read(store).unwrap();
        assert!(changes.is_empty(), "all is written");
        assert_eq!(again, policy);
        policy
    }

    fn apply(store: &Store, before: &Policy, next: &Policy) {
        let mut changes = Changes::default();
        let ids = before.invites.keys().chain(next.invites.keys());
        let changed: Vec<Arc<str>> = ids.map(|id| id.as_str().into()).collect();
        put(&mut changes, next, Some(&changed));
        store.commit(&changes).unwrap();
        assert_eq!(open(store).as_ref(), Some(next));
    }

    #[test]
    fn what_changed_is_written_and_what_an_earlier_version_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(open(&store), None);
        let first = policy(1, &[("a", 1), ("b", 1)]);
        write_whole(&store, &first);
        assert_eq!(open(&store).as_ref(), Some(&first));

        let second = policy(2, &[("b", 2), ("c", 1)]);
        apply(&store, &first, &second);
        apply(&store, &second, &policy(3, &[]));

        let third = policy(3, &[("d", 1)]);
        let mut changes = Changes::default();
        put(&mut changes, &third, None);
        store.commit(&changes).unwrap();
        let left = Left::under(dir.path()).unwrap();
        let pool = stored_pool(&left, &Pool::default()).unwrap();
        assert_eq!(pool, third.node.pool, "for who only looks, too");
        assert_eq!(open(&store), Some(third), "whatever was there");
        let earlier: Option<Policy> = store.get(META, WHOLE).unwrap();
        assert_eq!(earlier, Some(first), "for a version that is put back");
    }

    #[test]
    fn what_an_earlier_version_applied_that_was_put_back_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        open(&store);
        let mut ours = policy(5, &[("a", 1), ("b", 1)]);
        apply(&store, &Policy::default(), &ours);
        // The first has written none before; the last comes from another store, at a lower revision.
        let mut restored = policy(2, &[("d", 1)]);
        restored.revision.generation = 0;
        for theirs in [policy(7, &[("a", 2), ("c", 1)]), policy(9, &[]), restored] {
            write_whole(&store, &theirs);
            assert_eq!(open(&store).as_ref(), Some(&theirs));
            ours = policy(theirs.revision.rev + 1, &[("b", 3)]);
            apply(&store, &theirs, &ours);
        }
        // It was put back, and nothing was pushed to it.
        assert_eq!(open(&store), Some(ours));
    }

    #[test]
    fn a_store_that_has_no_note_of_what_was_seen_goes_by_the_revision() {
        for (whole, taken) in [(4, false), (6, true)] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let (ours, theirs) = (policy(5, &[("a", 1)]), policy(whole, &[("b", 1)]));
            let mut changes = Changes::default();
            put(&mut changes, &ours, None);
            store.commit(&changes).unwrap();
            write_whole(&store, &theirs);
            assert_eq!(open(&store), Some(if taken { theirs } else { ours }));
        }
    }
}
