//! The invites that hold on this node, by id, and which ports they name.

use std::collections::HashMap;
use std::collections::hash_map::{Keys, Values};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use totoro_api::decide::Named;
use totoro_api::wire::push::DesiredInvite;

/// Invites by id.
#[derive(Clone, Debug, Default)]
pub struct Invites {
    all: HashMap<String, DesiredInvite>,
    named: Named,
}

impl Invites {
    /// One more, or in place of what it was.
    pub fn insert(&mut self, id: String, invite: DesiredInvite) {
        let ports = invite.limits.ports.as_ref();
        self.named.set(&id, invite.state, ports);
        self.all.insert(id, invite);
    }

    /// One fewer.
    pub fn remove(&mut self, id: &str) {
        self.all.remove(id);
        self.named.remove(id);
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&DesiredInvite> {
        self.all.get(id)
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn contains_key(&self, id: &str) -> bool {
        self.all.contains_key(id)
    }

    /// Their ids, in no order.
    pub fn keys(&self) -> Keys<'_, String, DesiredInvite> {
        self.all.keys()
    }

    /// All of them, in no order.
    pub fn values(&self) -> Values<'_, String, DesiredInvite> {
        self.all.values()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The ports that those name which hold.
    #[must_use]
    pub const fn named(&self) -> &Named {
        &self.named
    }
}

impl PartialEq for Invites {
    fn eq(&self, other: &Self) -> bool {
        self.all == other.all
    }
}

impl FromIterator<(String, DesiredInvite)> for Invites {
    fn from_iter<T: IntoIterator<Item = (String, DesiredInvite)>>(all: T) -> Self {
        let mut invites = Invites::default();
        for (id, invite) in all {
            invites.insert(id, invite);
        }
        invites
    }
}

impl<'a> IntoIterator for &'a Invites {
    type Item = (&'a String, &'a DesiredInvite);
    type IntoIter = std::collections::hash_map::Iter<'a, String, DesiredInvite>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

impl Serialize for Invites {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.all.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Invites {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let all = HashMap::<String, DesiredInvite>::deserialize(deserializer)?;
        Ok(all.into_iter().collect())
    }
}
