//! What one node is told: its desired state, as a snapshot or as what changed since.
//!
//! A node's policy revision is the revision of the last commit that touched its policy; the log
//! under `policy/<node>/log/` says what each touched. One node's change costs no other node
//! anything.

mod follow;

use totoro_api::ticket::Revision;
use totoro_api::wire::push::{Ban, DesiredInvite, DesiredNode, DesiredState};

use crate::app::App;
use crate::records::{BanRecord, Change, InviteRecord, NodeRecord, key};
use crate::store::{
    Entry, Position, Range, Store, StoreError, Tx, names, prefix_end, read, records,
};

use totoro_api::wire::node::Visibility;

pub(crate) use self::follow::{Follower, Next};

/// Entries of a log that a change is made from at most; what is longer is a snapshot.
const MAX_DELTA: usize = 512;
/// Entries of a log that are removed at once.
const MAX_TRIM: usize = 10_000;
/// Revoked and expired invites are still named for this long, seconds, so that whoever comes with
/// one is told why; after it they are unknown. No session outlives it.
pub(crate) const REMEMBER_S: i64 = 31 * 86_400;

/// Notes in a transaction that a node's policy changes: its revision moves with the commit.
///
/// # Errors
/// When it cannot be encoded, which it can.
pub fn touch(tx: &mut Tx<'_>, node: &str, change: &Change) -> Result<(), StoreError> {
    tx.put(key::policy_head(node), &())?;
    tx.append(&key::policy_log(node), change)
}

impl App {
    /// What is newer than what the node stands at.
    pub(crate) fn newer(
        &self,
        node: &str,
        stands: Option<Revision>,
    ) -> Result<Option<DesiredState>, StoreError> {
        // Read first: what is read after it may be newer, and is then sent once more.
        let now_at = self.policy_revision(node)?;
        match stands {
            Some(stands) if stands == now_at => Ok(None),
            Some(Revision { generation, rev })
                if generation == now_at.generation && 0 < rev && rev < now_at.rev =>
            {
                match self.changes_since(node, rev)? {
                    Some(changes) => Ok(Some(self.delta(node, now_at, &changes)?)),
                    None => Ok(Some(self.snapshot(node, now_at)?)),
                }
            }
            _ => Ok(Some(self.snapshot(node, now_at)?)),
        }
    }

    /// What was touched after `rev`, or `None` when the log does not have that revision: trimmed, or
    /// seen by the node in the moment before a power cut undid it.
    fn changes_since(&self, node: &str, rev: u64) -> Result<Option<Vec<Change>>, StoreError> {
        let log = key::policy_log(node);
        let to = prefix_end(log.as_bytes());
        let range = Range {
            from: log.as_bytes(),
            to: &to,
            limit: MAX_DELTA,
            reverse: true,
        };
        let mut changes = Vec::new();
        for (at, found) in self.store.range(range)? {
            let position = Position::decode(&at[log.len()..]).unwrap_or_default();
            if position.revision == rev {
                return Ok(Some(changes));
            }
            let change =
                serde_json::from_slice(&found.value).map_err(|source| StoreError::Unreadable {
                    key: log.clone(),
                    source,
                })?;
            if !changes.contains(&change) {
                changes.push(change);
            }
        }
        Ok(None)
    }

    fn delta(
        &self,
        node: &str,
        revision: Revision,
        changes: &[Change],
    ) -> Result<DesiredState, StoreError> {
        let mut state = DesiredState {
            revision,
            snapshot: false,
            ..DesiredState::default()
        };
        let now = self.now();
        for change in changes {
            match change {
                Change::Invite(id) => self.put_invite(&mut state, id, now)?,
                Change::Invites(ids) => ids
                    .iter()
                    .try_for_each(|id| self.put_invite(&mut state, id, now))?,
                Change::Node => state.node = self.desired_node(node)?,
                Change::Bans => state.bans = Some(self.desired_bans(node)?),
                Change::Kicks => state.kicks = self.desired_kicks(node)?,
                Change::Keys => state.keys = Some(self.ticket_keys()),
            }
        }
        Ok(state)
    }

    /// Adds an invite as it stands now, or that it is no more.
    fn put_invite(&self, state: &mut DesiredState, id: &str, now: i64) -> Result<(), StoreError> {
        let record = read::<InviteRecord>(&*self.store, &key::invite(id))?;
        match record.and_then(|record| desired_invite(&record.value, now)) {
            Some(invite) => state.invites.push(invite),
            None => state.gone.push(id.to_owned()),
        }
        Ok(())
    }

    fn snapshot(&self, node: &str, revision: Revision) -> Result<DesiredState, StoreError> {
        let now = self.now();
        let mut invites = Vec::new();
        for id in names(&*self.store, &key::invites_of(node))? {
            let record = read::<InviteRecord>(&*self.store, &key::invite(&id))?;
            invites.extend(record.and_then(|record| desired_invite(&record.value, now)));
        }
        Ok(DesiredState {
            revision,
            snapshot: true,
            node: self.desired_node(node)?,
            invites,
            gone: Vec::new(),
            bans: Some(self.desired_bans(node)?),
            keys: Some(self.ticket_keys()),
            kicks: self.desired_kicks(node)?,
        })
    }

    fn desired_node(&self, node: &str) -> Result<Option<DesiredNode>, StoreError> {
        let record = read::<NodeRecord>(&*self.store, &key::node(node))?;
        Ok(record.map(|record| desired(record.value)))
    }

    /// The bans that hold on a node: its own and those of all nodes.
    pub(crate) fn desired_bans(&self, node: &str) -> Result<Vec<Ban>, StoreError> {
        let now = self.now();
        let mut bans = Vec::new();
        for prefix in [key::bans_of(node), key::GLOBAL_BANS.to_owned()] {
            let found = records::<BanRecord>(&*self.store, &prefix)?;
            let holding = found.into_iter().map(|(_, record)| record.value);
            let holding = holding.filter(|ban| holds(ban, now));
            bans.extend(holding.map(
                |BanRecord {
                     id, prefix, until, ..
                 }| Ban { id, prefix, until },
            ));
        }
        Ok(bans)
    }
}

/// Whether a ban's time is not over.
pub(crate) fn holds(ban: &BanRecord, now: i64) -> bool {
    ban.until.is_none_or(|until| until > now)
}

/// The node as it is told of itself.
pub(crate) fn desired(record: NodeRecord) -> DesiredNode {
    let NodeRecord {
        said,
        draining,
        disabled,
        ..
    } = record;
    DesiredNode {
        draining,
        disabled,
        public: said.visibility == Visibility::Public,
        pool: said.pool,
        defaults: said.defaults,
        public_limits: said.public_limits,
        public_max: said.public_max,
    }
}

/// The invite as the node is told of it; `None` when it is long over.
pub(crate) fn desired_invite(record: &InviteRecord, now: i64) -> Option<DesiredInvite> {
    if record
        .over_since(now)
        .is_some_and(|at| at + REMEMBER_S < now)
    {
        return None;
    }
    Some(DesiredInvite {
        id: record.id.clone(),
        state: record.state,
        epoch: record.epoch,
        limits: record.limits.clone(),
        expires_at: record.expires_at,
    })
}

/// Removes what the log no longer needs: what is older than what the node has applied, whose own
/// entry stays as the place to go on from, and all but the newest entries.
///
/// # Errors
/// When the store fails.
pub fn trim(
    store: &dyn Store,
    tx: &mut Tx<'_>,
    node: &str,
    applied: u64,
) -> Result<(), StoreError> {
    let log = key::policy_log(node);
    let to = prefix_end(log.as_bytes());
    let newest = store.range(Range {
        from: log.as_bytes(),
        to: &to,
        limit: MAX_DELTA,
        reverse: true,
    })?;
    let is_applied = |entry: &&Entry| entry.1.revision <= applied;
    let last = newest.last().filter(|_| newest.len() == MAX_DELTA);
    let Some((oldest, _)) = newest.iter().find(is_applied).or(last) else {
        return Ok(());
    };
    let old = store.range(Range {
        from: log.as_bytes(),
        to: oldest,
        limit: MAX_TRIM,
        reverse: false,
    })?;
    for (at, _) in old {
        tx.delete_raw(at);
    }
    Ok(())
}
