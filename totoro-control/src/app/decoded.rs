//! Records that are read with every request, decoded once for each version of them.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use totoro_api::Reason;

use super::{App, Failure, fields};
use crate::records::{AppliedRecord, NodeRecord, key};
use crate::store::{self, Record, Store, StoreError, Tx};

/// Records that are kept at most: nodes, and what they have applied.
const MAX_KEPT: usize = 50_000;

type Kept = (u64, Arc<dyn Any + Send + Sync>);

/// What was decoded, by key. The store says which version stands; one that is not it is read anew.
#[derive(Default)]
pub(super) struct Decoded(Mutex<HashMap<String, Kept>>);

impl Decoded {
    fn read<T>(&self, store: &dyn Store, key: &str) -> Result<Option<Record<Arc<T>>>, StoreError>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let Some(revision) = store.revision(key.as_bytes())? else {
            return Ok(None);
        };
        let kept = self.lock().get(key).cloned();
        if let Some((at, kept)) = kept
            && at == revision
            && let Ok(value) = kept.downcast::<T>()
        {
            return Ok(Some(Record { revision, value }));
        }
        let Some(Record { revision, value }) = store::read::<T>(store, key)? else {
            return Ok(None);
        };
        let value = Arc::new(value);
        let mut kept = self.lock();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key.to_owned(), (revision, Arc::clone(&value) as _));
        Ok(Some(Record { revision, value }))
    }

    /// Locked for map look-ups only, never across an await.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// A node as it stands, for those who only look at it.
    pub(super) fn node_now(&self, id: &str) -> Result<Option<Record<Arc<NodeRecord>>>, StoreError> {
        self.decoded.read(&*self.store, &key::node(id))
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
        let found = self.decoded.read(&*self.store, &key::applied(node))?;
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
