//! Ports by who has them: what one proxy's opening costs must not grow with all others' ports.

use std::collections::{BTreeMap, BTreeSet};

use super::PortId;

/// Ports by a name that many share: a session's, a tenant's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shared(BTreeMap<Box<str>, BTreeSet<PortId>>);

impl Shared {
    pub(super) fn add(&mut self, name: &str, port: PortId) {
        match self.0.get_mut(name) {
            Some(ports) => ports.insert(port),
            None => self.0.entry(name.into()).or_default().insert(port),
        };
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

/// Ports by a name that hardly two share: a proxy's in frps. Small, for there are as many as ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Single(BTreeSet<(Box<str>, PortId)>);

impl Single {
    pub(super) fn add(&mut self, name: &str, port: PortId) {
        self.0.insert((name.into(), port));
    }

    pub(super) fn remove(&mut self, name: &str, port: PortId) {
        self.0.remove(&(name.into(), port));
    }

    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = PortId> {
        let first = (name.into(), (crate::ports::Protocol::Tcp, 0));
        let from = self.0.range(first..);
        from.take_while(move |(of, _)| **of == *name)
            .map(|(_, port)| *port)
    }
}
