//! The read model: records that are read with every request, decoded once for each version of them.
//! The store says which version stands; what was decoded of another one is no use. Where it has stamps,
//! it is asked only when something may have changed.

use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use totoro_api::Reason;
use totoro_api::wire::push::DesiredNode;

use super::callback::Asker;
use super::{App, Failure, fields};
use crate::push;
use crate::records::{AppliedRecord, InviteRecord, NodeRecord, PresenceRecord, key};
use crate::store::{self, Record, Stamp, Store, StoreError, Tx};

/// Records of one kind that are kept at most; each is 4000 bytes at most in the store, few above 1000.
const MAX_KEPT: usize = 20_000;

/// Records of one kind, by their key in the store.
pub(super) struct Kept<T>(Cache<String, Known<T>>);

/// The stamp under which a record stood, and the record.
type Known<T> = (Option<Stamp>, Record<Arc<T>>);

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
    pub(super) fn read_as<R: DeserializeOwned>(
        &self,
        store: &dyn Store,
        key: &str,
        of: impl FnOnce(R) -> T,
    ) -> Result<Option<Record<Arc<T>>>, StoreError> {
        Ok(self.look(store, key, of)?.map(|(_, record)| record))
    }

    /// With the stamp under which it stands so.
    fn look<R: DeserializeOwned>(
        &self,
        store: &dyn Store,
        key: &str,
        of: impl FnOnce(R) -> T,
    ) -> Result<Option<Known<T>>, StoreError> {
        let known = self.0.get(key);
        if let Some((Some(stamp), _)) = &known
            && store.is_still(*stamp)
        {
            return Ok(known);
        }
        // Asked first: what is read behind it is no older.
        let stamp = store.stamp(key.as_bytes());
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
        Ok(Some((stamp, record)))
    }

    /// Keeps what was written: it need not be decoded.
    pub(super) fn wrote(&self, key: String, record: Record<Arc<T>>) {
        // Whether it still stands is looked at when it is asked for.
        self.0.insert(key, (None, record));
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// A record that another one leads to, again and again: found without its key as long as it stands.
pub(super) struct Link<T>(Mutex<Option<(Stamp, Record<Arc<T>>)>>);

impl<T> Default for Link<T> {
    fn default() -> Self {
        Link(Mutex::default())
    }
}

impl<T: DeserializeOwned> Link<T> {
    /// The record as it stands, which is kept there.
    fn follow(
        &self,
        kept: &Kept<T>,
        store: &dyn Store,
        key: impl FnOnce() -> String,
    ) -> Result<Option<Record<Arc<T>>>, StoreError> {
        if let Some((stamp, record)) = &*self.lock()
            && store.is_still(*stamp)
        {
            return Ok(Some(record.clone()));
        }
        let Some((stamp, record)) = kept.look(store, &key(), |value| value)? else {
            return Ok(None);
        };
        *self.lock() = stamp.map(|stamp| (stamp, record.clone()));
        Ok(Some(record))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Stamp, Record<Arc<T>>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose a node key is.
pub(super) struct KeyOf {
    node: String,
    record: Link<NodeRecord>,
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
    /// Whose a node key is.
    keys: Kept<KeyOf>,
    /// Whose a code is.
    pub(super) ids: Kept<String>,
    /// Sessions of nodes at grade `callback`.
    pub(super) sessions: Kept<Asker>,
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
            ("secret", kept.keys.len() + kept.ids.len()),
            ("session", kept.sessions.len()),
        ]
    }

    /// A node as it stands, for those who only look at it.
    pub(super) fn node_now(&self, id: &str) -> Result<Option<Record<Arc<NodeRecord>>>, StoreError> {
        self.decoded.nodes.read(&*self.store, &key::node(id))
    }

    /// The node that has, or had, the key that this is the keyed hash of.
    pub(super) fn node_of_key(&self, hash: &str) -> Result<Option<Arc<NodeRecord>>, StoreError> {
        let Decoded { keys, nodes, .. } = &self.decoded;
        let key_of = |node| KeyOf {
            node,
            record: Link::default(),
        };
        let Some(found) = keys.read_as(&*self.store, &key::node_key(hash), key_of)? else {
            return Ok(None);
        };
        let KeyOf { node, record } = &*found.value;
        let node = record.follow(nodes, &*self.store, || key::node(node))?;
        Ok(node.map(|found| found.value))
    }

    /// As [`App::node_now`]; that it stays so becomes the transaction's precondition.
    pub(super) fn node_held(
        &self,
        tx: &mut Tx<'_>,
        id: &str,
    ) -> Result<Option<Arc<NodeRecord>>, StoreError> {
        let found = self.node_now(id)?;
        tx.expect(key::node(id), found.as_ref().map(|found| found.revision));
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
        tx.expect(key::invite(id), found.as_ref().map(|found| found.revision));
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
