//! The public keys that tickets are verified with.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::wire::push::TicketKey;

/// The keys of a node, read once: a key's point takes a tenth of a verification to find. A clone shares them.
/// On the wire they are a list of [`TicketKey`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<TicketKey>", into = "Vec<TicketKey>")]
pub struct Keys(Arc<Read>);

#[derive(Debug, Default)]
struct Read {
    listed: Vec<TicketKey>,
    /// Those of them that can be read.
    read: Vec<(String, Key)>,
}

/// One that can be read.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) public: VerifyingKey,
    /// Unix seconds.
    pub(super) not_before: i64,
    /// Unix seconds.
    pub(super) expires: i64,
}

impl Keys {
    /// As they were pushed.
    #[must_use]
    pub fn listed(&self) -> &[TicketKey] {
        &self.0.listed
    }

    /// The ids of those that tickets can be verified with.
    pub fn usable(&self) -> impl Iterator<Item = &str> {
        self.0.read.iter().map(|(kid, _)| kid.as_str())
    }

    pub(super) fn find(&self, kid: &str) -> Option<&Key> {
        let (_, key) = self.0.read.iter().find(|(of, _)| of == kid)?;
        Some(key)
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Keys) -> bool {
        self.0.listed == other.0.listed
    }
}

/// One that can't be read verifies nothing; that is not the client's fault. Nor does one of small order,
/// under which anybody can sign.
impl From<Vec<TicketKey>> for Keys {
    fn from(listed: Vec<TicketKey>) -> Self {
        let read = |key: &TicketKey| {
            let bytes = URL_SAFE_NO_PAD.decode(&key.public).ok()?;
            let public = VerifyingKey::try_from(bytes.as_slice()).ok()?;
            let read = Key {
                public,
                not_before: key.not_before,
                expires: key.expires,
            };
            (!public.is_weak()).then(|| (key.kid.clone(), read))
        };
        let read = listed.iter().filter_map(read).collect();
        Keys(Arc::new(Read { listed, read }))
    }
}

impl From<Keys> for Vec<TicketKey> {
    fn from(keys: Keys) -> Self {
        keys.0.listed.clone()
    }
}
