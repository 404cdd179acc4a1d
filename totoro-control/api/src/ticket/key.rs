//! The key that tickets are signed with. Only the control plane has one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pasetors::keys::{AsymmetricKeyPair, AsymmetricSecretKey, Generate};
use pasetors::version4::V4;

/// What only the control plane has. `Debug` hides it.
#[derive(Clone)]
pub struct SigningKey {
    pub(super) kid: String,
    pub(super) secret: AsymmetricSecretKey<V4>,
}

/// Why there is no signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 64 bytes of seed and public key that belong together.
    #[error("not a ticket key: want 64 bytes, seed and public key")]
    Unreadable,
    /// The system gave no randomness.
    #[error("no randomness for a ticket key")]
    Randomness,
}

impl SigningKey {
    /// A new key. Its id is derived from its public half.
    ///
    /// # Errors
    /// [`KeyError::Randomness`].
    pub fn generate() -> Result<Self, KeyError> {
        let pair = AsymmetricKeyPair::<V4>::generate().map_err(|_| KeyError::Randomness)?;
        Self::from_bytes(pair.secret.as_bytes())
    }

    /// The key in these 64 bytes (seed, then public key), as [`SigningKey::to_bytes`] gave them.
    ///
    /// # Errors
    /// [`KeyError::Unreadable`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        // The library panics on an all-zero seed.
        if bytes.len() != 64 || bytes[..32].iter().all(|&byte| byte == 0) {
            return Err(KeyError::Unreadable);
        }
        let secret = AsymmetricSecretKey::from(bytes).map_err(|_| KeyError::Unreadable)?;
        let digest = blake3::hash(&bytes[32..]);
        let kid = URL_SAFE_NO_PAD.encode(&digest.as_bytes()[..9]);
        Ok(SigningKey { kid, secret })
    }

    /// The 64 secret bytes, for a 0600 file.
    #[must_use]
    pub fn to_bytes(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    /// The key's id: 12 symbols.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half, base64url without padding, as [`TicketKey::public`] has it.
    #[must_use]
    pub fn public(&self) -> String {
        URL_SAFE_NO_PAD.encode(&self.secret.as_bytes()[32..])
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}
