//! The read model: records that are read with every request, decoded once for each version of them.
//! The store says which version stands; what was decoded of another one is no use. Where it has stamps,
//! it is asked only when something may have changed.

use std::sync::Arc;

use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use totoro_api::Reason;
use totoro_api::wire::push::DesiredNode;

use super::callback::Session;
use super::{App, Failure, fields};
use crate::push;
use crate::records::{AppliedRecord, InviteRecord, NodeRecord, PresenceRecord, key};
use crate::store::{self, Record, Store, StoreError, Tx};

/// Records of one kind that are kept at most; each is 4000 bytes at most in the store, few above 1000.
const MAX_KEPT: usize = 20_000;

/// Records of one kind, by their key in the store.
pub(super) struct Kept<T>(Cache<String, Known<T>>);

/// The stamp under which a record stood, and the record.
type Known<T> = (Option<u64>, Record<Arc<T>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(Cache::new(MAX_KEPT))
    }
}

impl<T> Kept<T> {
    /// The record as it stands.
    pub(super) fn read(
        &self,
        store: &dyn Store,
        key: &str,
    ) -> Result<Option<Record<Arc<T>>>, StoreError>
    where
        T: DeserializeOwned,
    {
        self.read_as(store, key, |value| value)
    }

    /// What is made of the record as it stands.
    fn read_as<R: DeserializeOwned>(
        &self,
        store: &dyn Store,
        key: &str,
        of: impl FnOnce(R) -> T,
    ) -> Result<Option<Record<Arc<T>>>, StoreError> {
        let known = self.0.get(key);
        // Asked first: what is read behind it is no older.
        let stamp = store.stamp(key.as_bytes());
        if let Some((then, record)) = &known
            && then.is_some()
            && *then == stamp
        {
            return Ok(Some(record.clone()));
        }
        let Some(revision) = store.revision(key.as_bytes())? else {
            return Ok(None);
        };
        let record = match known {
            Some((_, record)) if record.revision == revision => record,
            _ => {
                let Some(Record { revision, value }) = store::read::<R>(store, key)? else {
                    return Ok(None);
                };
                let value = Arc::new(of(value));
                Record { revision, value }
            }
        };
        self.0.insert(key.to_owned(), (stamp, record.clone()));
        Ok(Some(record))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// What was decoded.
#[derive(Default)]
pub(super) struct Decoded {
    nodes: Kept<NodeRecord>,
    /// Nodes as they are told of themselves.
    desired: Kept<DesiredNode>,
    applied: Kept<AppliedRecord>,
    presence: Kept<PresenceRecord>,
    pub(super) invites: Kept<InviteRecord>,
    /// Whose a node key or a code is.
    pub(super) ids: Kept<String>,
    /// Sessions of nodes at grade `callback`.
    pub(super) sessions: Kept<Session>,
}

impl App {
    /// How many records of each kind are kept.
    #[must_use]
    pub fn decoded_figures(&self) -> [(&'static str, usize); 6] {
        let kept = &self.decoded;
        [
            ("node", kept.nodes.len() + kept.desired.len()),
            ("applied", kept.applied.len()),
            ("presence", kept.presence.len()),
            ("invite", kept.invites.len()),
            ("secret", kept.ids.len()),
            ("session", kept.sessions.len()),
        ]
    }

    /// A node as it stands, for those who only look at it.
    pub(super) fn node_now(&self, id: &str) -> Result<Option<Record<Arc<NodeRecord>>>, StoreError> {
        self.decoded.nodes.read(&*self.store, &key::node(id))
    }

    /// As [`App::node_now`]; that it stays so becomes the transaction's precondition.
    pub(super) fn node_held(
        &self,
        tx: &mut Tx<'_>,
        id: &str,
    ) -> Result<Option<Arc<NodeRecord>>, StoreError> {
        let found = self.node_now(id)?;
        tx.expect(&key::node(id), found.as_ref().map(|found| found.revision));
        Ok(found.map(|found| found.value))
    }

    /// A node as it is told of itself; that it stays so becomes the transaction's precondition.
    pub(super) fn desired_held(
        &self,
        tx: &mut Tx<'_>,
        id: &str,
    ) -> Result<Option<Arc<DesiredNode>>, StoreError> {
        let at = key::node(id);
        let desired = &self.decoded.desired;
        let found = desired.read_as::<NodeRecord>(&*self.store, &at, push::desired)?;
        tx.expect(&at, found.as_ref().map(|found| found.revision));
        Ok(found.map(|found| found.value))
    }

    /// An invite as it stands, for those who only look at it.
    pub(super) fn invite_now(
        &self,
        id: &str,
    ) -> Result<Option<Record<Arc<InviteRecord>>>, StoreError> {
        self.decoded.invites.read(&*self.store, &key::invite(id))
    }

    /// As [`App::invite_now`]; that it stays so becomes the transaction's precondition.
    pub(super) fn invite_held(
        &self,
        tx: &mut Tx<'_>,
        id: &str,
    ) -> Result<Option<Arc<InviteRecord>>, StoreError> {
        let found = self.invite_now(id)?;
        tx.expect(&key::invite(id), found.as_ref().map(|found| found.revision));
        Ok(found.map(|found| found.value))
    }

    /// The id of the node with this id or this name.
    ///
    /// # Errors
    /// `node_unknown`.
    pub(super) fn node_id(&self, name: &str) -> Result<String, Failure> {
        let is_id = fields::checked_id(name).is_ok() && self.node_now(name)?.is_some();
        match is_id {
            true => Ok(name.to_owned()),
            false => Ok(self.node_named(name)?.value.id),
        }
    }

    /// What a node has applied.
    pub(super) fn applied_now(&self, node: &str) -> Result<Option<Arc<AppliedRecord>>, StoreError> {
        let found = self.decoded.applied.read(&*self.store, &key::applied(node));
        Ok(found?.map(|found| found.value))
    }

    /// Whether a node was last known to be online, and what was wrong with it.
    pub(super) fn presence_now(
        &self,
        node: &str,
    ) -> Result<Option<Arc<PresenceRecord>>, StoreError> {
        let at = key::presence(node);
        let found = self.decoded.presence.read(&*self.store, &at)?;
        Ok(found.map(|found| found.value))
    }

    /// A node that is there.
    ///
    /// # Errors
    /// `node_unknown`.
    pub(super) fn node_there(&self, id: &str) -> Result<Arc<NodeRecord>, Failure> {
        let found = self.node_now(id)?;
        Ok(found.ok_or(Reason::NodeUnknown)?.value)
    }
}
