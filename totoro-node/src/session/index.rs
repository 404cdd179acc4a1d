//! Records with the index of their owners, that a decision looks them up by: what one login costs must
//! not grow with how many others there are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

use super::model::{Ticket, site};

/// Records by their key, and the keys by their owner. Read as a map.
#[derive(Debug)]
pub(super) struct Owned<T> {
    records: BTreeMap<String, T>,
    by_owner: BTreeMap<String, BTreeSet<String>>,
    /// An owner must not change while its record stays.
    owner: fn(&T) -> String,
}

/// Tickets by the hex of their hash; a tenant owns them, or the IPv6 /48 of an anonymous one.
pub(super) type Tickets = Owned<Ticket>;

/// Tickets as they were stored.
pub(super) fn tickets(records: impl IntoIterator<Item = (String, Ticket)>) -> Tickets {
    Owned::new(records, |ticket| owner_of(&ticket.tenant))
}

/// Who owns a tenant's tickets.
pub(super) fn owner_of(tenant: &str) -> String {
    site(tenant).unwrap_or_else(|| tenant.to_owned())
}

impl<T> Owned<T> {
    pub(super) fn new(
        records: impl IntoIterator<Item = (String, T)>,
        owner: fn(&T) -> String,
    ) -> Self {
        let mut all = Owned {
            records: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            owner,
        };
        for (key, record) in records {
            all.insert(key, record);
        }
        all
    }

    pub(super) fn insert(&mut self, key: String, record: T) -> Option<T> {
        let before = self.remove(&key);
        let keys = self.by_owner.entry((self.owner)(&record)).or_default();
        keys.insert(key.clone());
        self.records.insert(key, record);
        before
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<T> {
        let record = self.records.remove(key)?;
        let owner = (self.owner)(&record);
        if let Some(keys) = self.by_owner.get_mut(&owner) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_owner.remove(&owner);
            }
        }
        Some(record)
    }

    /// A record, to change all but its owner.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut T> {
        self.records.get_mut(key)
    }

    /// All of them, to change all but their owners.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut T)> {
        self.records.iter_mut()
    }

    /// How much an owner has.
    pub(super) fn count_of(&self, owner: &str) -> usize {
        self.by_owner.get(owner).map_or(0, BTreeSet::len)
    }

    /// What an owner has.
    pub(super) fn of_owner(&self, owner: &str) -> impl Iterator<Item = (&String, &T)> {
        let keys = self.by_owner.get(owner).into_iter().flatten();
        keys.filter_map(|key| self.records.get_key_value(key))
    }

    /// The owners in order, and how many each has.
    pub(super) fn owners(&self) -> impl Iterator<Item = (&String, usize)> {
        let owners = self.by_owner.iter();
        owners.map(|(owner, keys)| (owner, keys.len()))
    }

    /// What the owners have whose names begin so, in the owners' order.
    pub(super) fn of_owners<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a String, &'a T)> {
        let owners = self.by_owner.range(prefix.to_owned()..);
        let keys = owners.take_while(move |(owner, _)| owner.starts_with(prefix));
        keys.flat_map(|(_, keys)| keys)
            .filter_map(|key| self.records.get_key_value(key))
    }
}

impl<T> Deref for Owned<T> {
    type Target = BTreeMap<String, T>;

    fn deref(&self) -> &Self::Target {
        &self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_finds_its_own_whatever_was_replaced_or_removed() {
        let mut all = Owned::new([], |owner: &String| owner.clone());
        let put = |all: &mut Owned<String>, key: &str, owner: &str| {
            all.insert(key.to_owned(), owner.to_owned())
        };
        for (key, owner) in [("1", "a"), ("2", "b"), ("3", "a"), ("4", "bb")] {
            assert_eq!(put(&mut all, key, owner), None);
        }
        let of = |all: &Owned<String>, owner: &str| -> Vec<String> {
            all.of_owner(owner).map(|(key, _)| key.clone()).collect()
        };
        assert_eq!(of(&all, "a"), ["1", "3"]);
        assert_eq!(put(&mut all, "3", "b").as_deref(), Some("a"), "moved");
        assert_eq!(of(&all, "a"), ["1"]);
        assert_eq!(of(&all, "b"), ["2", "3"]);
        assert_eq!(["a", "b", "c"].map(|owner| all.count_of(owner)), [1, 2, 0]);
        assert_eq!(all.of_owners("b").count(), 3);
        assert_eq!(all.remove("1").as_deref(), Some("a"));
        assert!(of(&all, "a").is_empty() && !all.by_owner.contains_key("a"));
        assert_eq!(all.len(), 3);
    }
}
