//! What nodes at grade `callback` have, as memory remembers it between two changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use totoro_api::decide::{Lease, PortId, Ports, Waiting, parse_key};

use super::book::{self, Head, Seat};
use super::lock;
use crate::store::{Store, StoreError, read, records};

/// Nodes that are remembered at most.
const MAX_NODES: usize = 1000;

/// All that one node has, as of one commit: every change of it writes the node's head, so the head's
/// revision tells whether it still stands.
#[derive(Debug, PartialEq)]
pub(super) struct Table {
    /// The commit that wrote the head; `None` where nothing was ever written.
    pub(super) revision: Option<u64>,
    pub(super) head: Head,
    pub(super) sessions: BTreeMap<String, Seat>,
    pub(super) ports: Ports,
}

impl Table {
    /// As it stands. What is written while it is read may be in it: the head has moved then.
    fn read(store: &dyn Store, node: &str) -> Result<Self, StoreError> {
        let head = read::<Head>(store, &book::head(node))?;
        Ok(Table {
            revision: head.as_ref().map(|head| head.revision),
            head: head.map(|head| head.value).unwrap_or_default(),
            sessions: book::seats(store, node)?,
            ports: ports(store, node)?,
        })
    }

    /// That this is what the store has, unless that has changed since.
    #[cfg(debug_assertions)]
    pub(super) fn assert_stands(&self, store: &dyn Store, node: &str) {
        let head = book::head(node);
        let (Ok(stands), Ok(after)) = (Table::read(store, node), store.revision(head.as_bytes()))
        else {
            return;
        };
        if stands.revision == self.revision && after == self.revision {
            assert_eq!(*self, stands, "the table of {node} in memory");
        }
    }
}

/// The tables of the nodes that were busy last. Whoever changes one takes it, and gives it back as it
/// is then.
#[derive(Default)]
pub(super) struct Tables(Mutex<HashMap<String, Table>>);

impl Tables {
    /// A node's table as it stands, unless somebody has changed it elsewhere: that its head stands is
    /// the precondition of whatever is decided on it, and who tries again after a conflict reads it.
    pub(super) fn take(&self, store: &dyn Store, node: &str) -> Result<Table, StoreError> {
        let kept = lock(&self.0).remove(node);
        kept.map_or_else(|| Table::read(store, node), Ok)
    }

    /// Which commit wrote the head of a node's table that is kept; `None` where none is.
    pub(super) fn revision(&self, node: &str) -> Option<u64> {
        lock(&self.0).get(node).and_then(|table| table.revision)
    }

    /// Keeps a node's table for the next who changes it.
    pub(super) fn give_back(&self, node: &str, table: Table) {
        let mut kept = lock(&self.0);
        // It costs that node one reading, whichever it is.
        let any = || kept.keys().next().cloned();
        if kept.len() >= MAX_NODES
            && let Some(any) = any()
        {
            kept.remove(&any);
        }
        kept.insert(node.to_owned(), table);
    }
}

/// The node's port table. A port may still have waited when it was leased.
pub(super) fn ports(store: &dyn Store, node: &str) -> Result<Ports, StoreError> {
    let leases = records::<Lease>(store, &book::leases(node))?.into_iter();
    let waiting = records::<Waiting>(store, &book::held(node))?.into_iter();
    let leases = leases.filter_map(|(at, found)| Some((parse_key(&at)?, found.value)));
    let leases: Vec<(PortId, Lease)> = leases.collect();
    let leased: BTreeSet<PortId> = leases.iter().map(|(port, _)| *port).collect();
    let waiting = waiting.filter_map(|(at, found)| Some((parse_key(&at)?, found.value)));
    let waiting = waiting.filter(|(port, _)| !leased.contains(port));
    Ok(Ports::new(leases, waiting))
}
