//! Which ports a node's invites name: chosen for nobody else as long as there are others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use totoro_api::decide;
use totoro_api::ticket::Revision;

use super::lock;
use crate::app::App;
use crate::records::{InviteRecord, key};
use crate::store::{StoreError, names, read};

/// Invites and the ports that each names.
pub(super) type Ports = Arc<decide::Named>;

/// By node, as of a policy revision: read again only once that has moved.
#[derive(Default)]
pub(super) struct Named(Mutex<HashMap<String, (Revision, Ports)>>);

impl App {
    /// The ports that invites of this node name.
    pub(super) fn ports_named(&self, node: &str) -> Result<Ports, StoreError> {
        let revision = self.policy_revision(node)?;
        if let Some((known, ports)) = lock(&self.callback.named.0).get(node)
            && *known == revision
        {
            return Ok(Arc::clone(ports));
        }
        let now = self.now();
        let mut named = decide::Named::default();
        for id in names(&*self.store, &key::invites_of(node))? {
            let Some(record) = read::<InviteRecord>(&*self.store, &key::invite(&id))? else {
                continue;
            };
            let state = record.value.state_at(now);
            named.set(&id, state, record.value.limits.ports.as_ref());
        }
        let named = Arc::new(named);
        let known = (revision, Arc::clone(&named));
        lock(&self.callback.named.0).insert(node.to_owned(), known);
        Ok(named)
    }
}
