//! Records with the index of their owners, that a decision looks them up by: what one login costs must
//! not grow with how many others there are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::model::{Ticket, site};

/// Records by their key, and the keys by their owner.
#[derive(Debug)]
pub(super) struct Owned<T> {
    /// Each on its own: a table is half empty. Hashed, for a decision looks up many: in a tree of as many keys, each
    /// comparison is a line of memory that nobody has at hand.
    records: HashMap<Arc<str>, Box<T>>,
    /// Owners and keys: one set for all, for most owners have one record.
    by_owner: BTreeSet<(Arc<str>, Arc<str>)>,
    /// An owner must not change while its record stays.
    owner: fn(&T) -> Arc<str>,
}

/// Tickets by the hex of their hash; a tenant owns them, or the IPv6 /48 of an anonymous one.
pub(super) type Tickets = Owned<Ticket>;

/// No tickets yet.
pub(super) fn tickets() -> Tickets {
    Owned::new(|ticket| owner_of(&ticket.tenant))
}

/// Who owns a tenant's tickets.
pub(super) fn owner_of(tenant: &Arc<str>) -> Arc<str> {
    site(tenant).map_or_else(|| Arc::clone(tenant), Into::into)
}

impl<T> Owned<T> {
    pub(super) fn new(owner: fn(&T) -> Arc<str>) -> Self {
        Owned {
            records: HashMap::new(),
            by_owner: BTreeSet::new(),
            owner,
        }
    }

    pub(super) fn insert(&mut self, key: impl Into<Arc<str>>, record: T) -> Option<T> {
        let key = key.into();
        let owner = (self.owner)(&record);
        if let Some(there) = self.records.get_mut(&key)
            && (self.owner)(there) == owner
        {
            return Some(std::mem::replace(&mut **there, record));
        }
        let before = self.remove(&key);
        self.by_owner.insert((owner, Arc::clone(&key)));
        self.records.insert(key, Box::new(record));
        before
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<T> {
        let (key, record) = self.records.remove_entry(key)?;
        self.by_owner.remove(&((self.owner)(&record), key));
        Some(*record)
    }

    pub(super) fn get(&self, key: &str) -> Option<&T> {
        self.records.get(key).map(|record| &**record)
    }

    /// A key as its record has it, to share.
    pub(super) fn key(&self, key: &str) -> Option<Arc<str>> {
        let (key, _) = self.records.get_key_value(key)?;
        Some(Arc::clone(key))
    }

    pub(super) fn contains_key(&self, key: &str) -> bool {
        self.records.contains_key(key)
    }

    /// All, in any order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.records.iter().map(|(key, record)| (key, &**record))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.records.values().map(|record| &**record)
    }

    /// A record, to change all but its owner.
    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut T> {
        self.records.get_mut(key).map(|record| &mut **record)
    }

    /// All of them, to change all but their owners.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut T)> {
        let all = self.records.iter_mut();
        all.map(|(key, record)| (key, &mut **record))
    }

    /// How much an owner has.
    pub(super) fn count_of(&self, owner: &str) -> usize {
        self.keys_from(owner, |of| of == owner).count()
    }

    /// What an owner has.
    pub(super) fn of_owner(&self, owner: &str) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.owned_from(owner, move |of| of == owner)
    }

    /// The owners in order, and how many each has.
    pub(super) fn owners(&self) -> impl Iterator<Item = (&Arc<str>, usize)> {
        let mut all = self.by_owner.iter().map(|(owner, _)| owner).peekable();
        std::iter::from_fn(move || {
            let owner = all.next()?;
            let more = std::iter::from_fn(|| all.next_if(|next| *next == owner));
            Some((owner, 1 + more.count()))
        })
    }

    /// What the owners have whose names begin so, in the owners' order.
    pub(super) fn of_owners(&self, prefix: &str) -> impl Iterator<Item = (&Arc<str>, &T)> {
        self.owned_from(prefix, move |of| of.starts_with(prefix))
    }

    /// What this owner and those after it have, while `ours`.
    fn owned_from(
        &self,
        owner: &str,
        ours: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = (&Arc<str>, &T)> {
        let keys = self.keys_from(owner, ours);
        keys.filter_map(|key| Some((key, &**self.records.get(key)?)))
    }

    /// Their keys alone: to look each record up costs many times more than to count it.
    fn keys_from(
        &self,
        owner: &str,
        ours: impl Fn(&str) -> bool,
    ) -> impl Iterator<Item = &Arc<str>> {
        let from = self.by_owner.range((owner.into(), Arc::default())..);
        let keys = from.take_while(move |(of, _)| ours(of));
        keys.map(|(_, key)| key)
    }
}

/// What only tests ask.
#[cfg(test)]
impl<T: Clone> Owned<T> {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn records(&self) -> HashMap<Arc<str>, Box<T>> {
        self.records.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_finds_its_own_whatever_was_replaced_or_removed() {
        let mut all = Owned::new(|owner: &String| owner.as_str().into());
        let put =
            |all: &mut Owned<String>, key: &str, owner: &str| all.insert(key, owner.to_owned());
        for (key, owner) in [("1", "a"), ("2", "b"), ("3", "a"), ("4", "bb")] {
            assert_eq!(put(&mut all, key, owner), None);
        }
        let of = |all: &Owned<String>, owner: &str| -> Vec<String> {
            all.of_owner(owner)
                .map(|(key, _)| key.to_string())
                .collect()
        };
        assert_eq!(of(&all, "a"), ["1", "3"]);
        assert_eq!(put(&mut all, "3", "b").as_deref(), Some("a"), "moved");
        assert_eq!(of(&all, "a"), ["1"]);
        assert_eq!(of(&all, "b"), ["2", "3"]);
        assert_eq!(["a", "b", "c"].map(|owner| all.count_of(owner)), [1, 2, 0]);
        assert_eq!(all.of_owners("b").count(), 3);
        assert_eq!(all.remove("1").as_deref(), Some("a"));
        assert!(of(&all, "a").is_empty());
        let owners = all.owners().map(|(owner, has)| (&**owner, has));
        assert_eq!(owners.collect::<Vec<_>>(), [("b", 2), ("bb", 1)]);
        assert_eq!(all.len(), 3);
    }
}
