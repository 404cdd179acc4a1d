//! Ports by who has them: what one proxy's opening costs must not grow with all others' ports.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::PortId;

/// Ports by a name that many share: a session's, a tenant's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shared(BTreeMap<Arc<str>, BTreeSet<PortId>>);

impl Shared {
    /// The name, as all that are known by it may share it.
    pub(super) fn add(&mut self, name: Arc<str>, port: PortId) -> Arc<str> {
        let entry = self.0.entry(name);
        let shared = Arc::clone(entry.key());
        entry.or_default().insert(port);
        shared
    }

    pub(super) fn remove(&mut self, name: &str, port: PortId) {
        if let Some(ports) = self.0.get_mut(name) {
            ports.remove(&port);
            if ports.is_empty() {
                self.0.remove(name);
            }
        }
    }

    /// In order.
    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = PortId> + '_ {
        self.0.get(name).into_iter().flatten().copied()
    }

    pub(super) fn count(&self, name: &str) -> usize {
        self.0.get(name).map_or(0, BTreeSet::len)
    }
}

/// Ports by a name that hardly two share: a proxy's in frps. There are as many as ports, and each has
/// its name: here its hash is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Single(BTreeSet<(u64, PortId)>);

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Single {
    pub(super) fn add(&mut self, name: &str, port: PortId) {
        self.0.insert((hash(name), port));
    }

    pub(super) fn remove(&mut self, name: &str, port: PortId) {
        self.0.remove(&(hash(name), port));
    }

    /// Those of this name, and perhaps others.
    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = PortId> {
        let hash = hash(name);
        let from = self.0.range((hash, (crate::ports::Protocol::Tcp, 0))..);
        from.take_while(move |(of, _)| *of == hash)
            .map(|(_, port)| *port)
    }
}
