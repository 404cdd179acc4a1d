//! The server secret: everything that is looked up by a secret is stored under a hash keyed with
//! it, so that a stolen store gives nobody a key, a token or a code to use or to guess offline.

use std::path::Path;

use super::files::{FileError, create_secret, read_secret};
use super::text::random;

/// What a keyed hash is for. Each has its own key, so that a hash of one kind is none of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Nodes by their key's hash.
    NodeKey,
    /// Enrolment tokens.
    Enrolment,
    /// Admin tokens.
    Admin,
    /// Invites by their code.
    InviteCode,
    /// Codes that are derived from an Idempotency-Key.
    DerivedCode,
    /// Whether a backup was made under this secret.
    BackupCheck,
    /// Enrolment tokens that are derived from an Idempotency-Key.
    DerivedToken,
    /// Idempotency keys and the bodies that came with them.
    Idempotency,
}

impl Purpose {
    const ALL: [Purpose; 8] = [
        Purpose::NodeKey,
        Purpose::Enrolment,
        Purpose::Admin,
        Purpose::InviteCode,
        Purpose::DerivedCode,
        Purpose::BackupCheck,
        Purpose::DerivedToken,
        Purpose::Idempotency,
    ];

    /// BLAKE3's key-derivation context: fixed for ever, or nothing stored is found again.
    const fn context(self) -> &'static str {
        match self {
            Purpose::NodeKey => "totoro-control 2025 node key",
            Purpose::Enrolment => "totoro-control 2025 enrolment token",
            Purpose::Admin => "totoro-control 2025 admin token",
            Purpose::InviteCode => "totoro-control 2025 invite code",
            Purpose::DerivedCode => "totoro-control 2025 derived code",
            Purpose::BackupCheck => "totoro-control 2025 backup check",
            Purpose::DerivedToken => "totoro-control 2025 derived enrolment token",
            Purpose::Idempotency => "totoro-control 2025 idempotency",
        }
    }
}

/// 256 random bits. `Debug` hides them.
#[derive(Clone)]
pub struct ServerSecret {
    bytes: [u8; 32],
    /// Each purpose's own key: deriving it costs more than the hash that it is for.
    keys: [[u8; 32]; Purpose::ALL.len()],
}

impl ServerSecret {
    /// A new one.
    #[must_use]
    pub fn generate() -> Self {
        Self::new(random())
    }

    fn new(bytes: [u8; 32]) -> Self {
        let keys = Purpose::ALL.map(|purpose| blake3::derive_key(purpose.context(), &bytes));
        ServerSecret { bytes, keys }
    }

    /// Writes it to a new 0600 file.
    ///
    /// # Errors
    /// When the file exists or the disk fails.
    pub fn create(&self, path: &Path) -> Result<(), FileError> {
        create_secret(path, &self.bytes)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When the file is missing, not private or not 32 bytes.
    pub fn load(path: &Path) -> Result<Self, FileError> {
        Self::from_bytes(&read_secret(path)?, path)
    }

    /// A secret as it stands in a file or a backup; `from` names that in errors.
    ///
    /// # Errors
    /// When it is not 32 bytes.
    pub fn from_bytes(bytes: &[u8], from: &Path) -> Result<Self, FileError> {
        bytes
            .try_into()
            .map(Self::new)
            .map_err(|_| FileError::Content {
                path: from.to_owned(),
                expected: "a server secret of 32 bytes",
            })
    }

    /// Its bytes, for a secret file.
    #[must_use]
    pub(crate) const fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Tells nothing of the secret, but whether another one is the same.
    #[must_use]
    pub fn check(&self) -> String {
        self.hash_hex(Purpose::BackupCheck, "")
    }

    /// The keyed hash of some parts. Each is length-prefixed, so that no two lists of parts that
    /// differ hash alike.
    #[must_use]
    pub fn hash(&self, purpose: Purpose, parts: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.keys[purpose as usize]);
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// The keyed hash of a text in hex, as it stands in keys of the store.
    #[must_use]
    pub fn hash_hex(&self, purpose: Purpose, text: &str) -> String {
        blake3::Hash::from_bytes(self.hash(purpose, &[text.as_bytes()]))
            .to_hex()
            .to_string()
    }
}

impl std::fmt::Debug for ServerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_has_its_own_key() {
        let secret = ServerSecret::generate();
        for (at, purpose) in Purpose::ALL.into_iter().enumerate() {
            assert_eq!(purpose as usize, at);
            let key = blake3::derive_key(purpose.context(), secret.bytes());
            assert_eq!(secret.keys[at], key, "{purpose:?}");
        }
    }

    #[test]
    fn purposes_secrets_and_parts_all_count() {
        let (one, two) = (ServerSecret::generate(), ServerSecret::generate());
        let hash = |secret: &ServerSecret, purpose, parts: &[&[u8]]| secret.hash(purpose, parts);
        let base = hash(&one, Purpose::NodeKey, &[b"ab", b"c"]);
        assert_eq!(base, hash(&one, Purpose::NodeKey, &[b"ab", b"c"]));
        assert_ne!(base, hash(&two, Purpose::NodeKey, &[b"ab", b"c"]));
        assert_ne!(base, hash(&one, Purpose::Admin, &[b"ab", b"c"]));
        assert_ne!(base, hash(&one, Purpose::NodeKey, &[b"a", b"bc"]));
    }
}
