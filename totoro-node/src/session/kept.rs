//! The applied policy as the store has it: invites are records of their own, so that a change writes
//! what it changes.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use totoro_api::ports::Pool;
use totoro_api::ticket::Revision;
use totoro_api::wire::push::{Ban, DesiredNode, TicketKey};

use super::policy::{Policy, Tombstone};
use crate::store::{Changes, INVITES, META, Store};

/// Key in `META`: the applied policy without its invites.
const POLICY: &str = "applied_policy";
/// Key in `META`: all of it, as earlier versions wrote it. It is left as it is: one of those that is
/// put back goes on from there.
const WHOLE: &str = "policy";

/// A [`Policy`] but for its invites.
#[derive(Serialize)]
struct Head<'a> {
    revision: Revision,
    node: &'a DesiredNode,
    bans: &'a [Ban],
    keys: &'a [TicketKey],
    revoked: &'a BTreeMap<String, Tombstone>,
}

/// Reads the policy that was applied last, if any was; and whether it is yet to be written anew.
pub(super) fn read(store: &Store) -> Result<(Option<Policy>, bool)> {
    let Some(policy) = store.get::<Policy>(META, POLICY)? else {
        let whole: Option<Policy> = store.get(META, WHOLE)?;
        let anew = whole.is_some();
        return Ok((whole, anew));
    };
    let invites = store.all(INVITES)?.into_iter().collect();
    Ok((Some(Policy { invites, ..policy }), false))
}

/// Reads the pool that was applied last, for loading the programs.
///
/// # Errors
/// The disk.
pub fn stored_pool(store: &Store, otherwise: &Pool) -> Result<Pool> {
    let policy = match store.get::<Policy>(META, POLICY)? {
        None => store.get(META, WHOLE)?,
        head => head,
    };
    Ok(policy.map_or_else(|| otherwise.clone(), |policy| policy.node.pool))
}

/// Writes a policy that follows on another one.
pub(super) fn put(changes: &mut Changes, before: &Policy, next: &Policy) {
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
        keys,
        revoked,
    };
    changes.put(META, POLICY, &head);
    for (id, invite) in invites {
        if before.invites.get(id) != Some(invite) {
            changes.put(INVITES, id.as_str(), invite);
        }
    }
    for id in before.invites.keys() {
        if !invites.contains_key(id) {
            changes.remove(INVITES, id.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use totoro_api::limits::Limits;
    use totoro_api::wire::push::{DesiredInvite, InviteState};

    use super::*;

    fn policy(rev: u64, invites: &[(&str, u32)]) -> Policy {
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
            ..Policy::initial(Pool::default())
        }
    }

    #[test]
    fn what_changed_is_written_and_what_an_earlier_version_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(read(&store).unwrap(), (None, false));
        let first = policy(1, &[("a", 1), ("b", 1)]);
        let mut changes = Changes::default();
        changes.put(META, WHOLE, &first);
        store.commit(&changes).unwrap();
        assert_eq!(read(&store).unwrap(), (Some(first.clone()), true));

        let apply = |before: &Policy, next: &Policy| {
            let mut changes = Changes::default();
            put(&mut changes, before, next);
            store.commit(&changes).unwrap();
            assert_eq!(read(&store).unwrap(), (Some(next.clone()), false));
        };
        apply(&Policy::default(), &first);
        let second = policy(2, &[("b", 2), ("c", 1)]);
        apply(&first, &second);
        apply(&second, &policy(3, &[]));
        let earlier: Option<Policy> = store.get(META, WHOLE).unwrap();
        assert_eq!(earlier, Some(first), "for a version that is put back");
    }
}
