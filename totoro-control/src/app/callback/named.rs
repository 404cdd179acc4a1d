//! Which ports a node's invites name: chosen for nobody else as long as there are others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use totoro_api::ports::PortSet;
use totoro_api::ticket::Revision;
use totoro_api::wire::push::InviteState;

use super::lock;
use crate::app::App;
use crate::records::{InviteRecord, key};
use crate::store::{StoreError, names, read};

/// Invites and the ports that each names.
pub(super) type Ports = Arc<Vec<(String, PortSet)>>;

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
        let mut named = Vec::new();
        for id in names(&*self.store, &key::invites_of(node))? {
            let Some(record) = read::<InviteRecord>(&*self.store, &key::invite(&id))? else {
                continue;
            };
            let state = record.value.state_at(now);
            let admits = matches!(state, InviteState::Active | InviteState::Paused);
            named.extend(
                record
                    .value
                    .limits
                    .ports
                    .filter(|_| admits)
                    .map(|ports| (id, ports)),
            );
        }
        let named = Arc::new(named);
        let known = (revision, Arc::clone(&named));
        lock(&self.callback.named.0).insert(node.to_owned(), known);
        Ok(named)
    }
}

/// Whether a port is named by some other invite than `tenant`.
pub(super) fn by_another(named: &Ports, tenant: &str, port: u16) -> bool {
    named
        .iter()
        .any(|(invite, ports)| invite != tenant && ports.contains(port))
}
