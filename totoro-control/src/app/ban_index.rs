//! The bans as they are asked for with each ticket: compiled, and read again only when they change.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use tokio::sync::watch;

use super::App;
use crate::records::{BanRecord, key};
use crate::store::{Store, StoreError, records};

/// Names the bans of all nodes.
const ALL_NODES: &str = "";

/// The bans under one prefix of the store.
struct Scope {
    changes: watch::Receiver<u64>,
    table: Table,
}

/// Bans by prefix: one look-up for each length that there is, however many bans.
#[derive(Default)]
struct Table {
    /// Until when, Unix seconds; `None` = until lifted.
    bans: HashMap<IpNet, Option<i64>>,
    lengths: BTreeSet<u8>,
}

impl Table {
    fn of(bans: impl Iterator<Item = BanRecord>) -> Self {
        let mut table = Table::default();
        for ban in bans {
            table.lengths.insert(ban.prefix.prefix_len());
            let until = table.bans.entry(ban.prefix).or_insert(ban.until);
            // Of two bans the longer one holds.
            *until = until.zip(ban.until).map(|(one, other)| one.max(other));
        }
        table
    }

    fn holds(&self, address: IpAddr, now: i64) -> bool {
        self.lengths.iter().any(|&length| {
            IpNet::new(address, length)
                .ok()
                .and_then(|net| self.bans.get(&net.trunc()))
                .is_some_and(|until| until.is_none_or(|until| until > now))
        })
    }
}

/// All scopes that were asked for, by node; that of all nodes has no name.
#[derive(Default)]
pub(super) struct BanIndex {
    scopes: Mutex<HashMap<String, Scope>>,
}

impl BanIndex {
    /// What `look` finds in a scope.
    fn with<T>(
        &self,
        store: &dyn Store,
        node: &str,
        look: impl FnOnce(&Table) -> T,
    ) -> Result<T, StoreError> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scope) = scopes.get(node)
            && !scope.changes.has_changed().unwrap_or(true)
        {
            return Ok(look(&scope.table));
        }
        let prefix = match node {
            ALL_NODES => key::GLOBAL_BANS.to_owned(),
            node => key::bans_of(node),
        };
        // Followed before it is read, so that no change in between is missed.
        let changes = store.watch(prefix.as_bytes());
        let bans = records::<BanRecord>(store, &prefix)?;
        let bans = bans.into_iter().map(|(_, record)| record.value);
        let table = Table::of(bans);
        let found = look(&table);
        scopes.insert(node.to_owned(), Scope { changes, table });
        Ok(found)
    }
}

impl App {
    /// Whether this address is banned from a node.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) fn is_banned(&self, node: &str, address: IpAddr) -> Result<bool, StoreError> {
        self.is_any_banned(node, &[address])
    }

    /// Whether one of these addresses is banned from a node.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) fn is_any_banned(
        &self,
        node: &str,
        addresses: &[IpAddr],
    ) -> Result<bool, StoreError> {
        let now = self.now();
        let holds = |table: &Table| {
            let mut addresses = addresses.iter();
            addresses.any(|address| table.holds(address.to_canonical(), now))
        };
        for scope in [ALL_NODES, node] {
            if self.bans.with(&*self.store, scope, holds)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ban_of_any_length_holds() {
        let ban = |prefix: &str, until| BanRecord {
            id: String::new(),
            prefix: prefix.parse().unwrap(),
            until,
            note: String::new(),
            created_at: 0,
        };
        let table = Table::of(
            [
                ban("192.0.2.0/24", Some(10)),
                ban("192.0.2.0/24", Some(20)),
                ban("192.0.2.7/32", None),
                ban("192.0.2.7/32", Some(5)),
                ban("2001:db8::/48", Some(10)),
            ]
            .into_iter(),
        );
        let holds = |address: &str, now| table.holds(address.parse().unwrap(), now);
        assert!(holds("192.0.2.1", 19) && !holds("192.0.2.1", 20));
        assert!(holds("192.0.2.7", 999), "one has no end");
        assert!(!holds("192.0.3.1", 0));
        assert!(holds("2001:db8::1", 9) && !holds("2001:db8:1::1", 9));
    }
}
