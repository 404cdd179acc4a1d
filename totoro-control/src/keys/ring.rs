//! The ticket keys: private halves in 0600 files, `ticket-<not before>-<expires>.key`, so that the
//! directory alone says which keys there are and how long each may sign.

use std::path::{Path, PathBuf};

use totoro_api::ticket::{KeyError, SigningKey};
use totoro_api::wire::push::TicketKey;

use super::files::{FileError, create_secret, read_secret};

/// How long a key may sign, seconds. Its successor is made [`RENEW_BEFORE_S`] earlier.
const LIFE_S: i64 = 365 * 86_400;
/// How long before a key's end its successor is made and pushed, seconds.
const RENEW_BEFORE_S: i64 = 30 * 86_400;

/// How long after its end a key still verifies: the longest ticket's life and the clocks' skew.
const VERIFIES_S: i64 = 86_400 + 60;

/// One key of the ring.
#[derive(Clone, Debug)]
struct Held {
    key: SigningKey,
    not_before: i64,
    expires: i64,
}

/// All ticket keys that may still sign or verify, oldest first.
#[derive(Debug)]
pub struct KeyRing {
    dir: PathBuf,
    keys: Vec<Held>,
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key cannot be used.
    #[error("{path}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// No new key could be made.
    #[error("cannot make a ticket key")]
    Generate(#[source] KeyError),
}

impl KeyRing {
    /// Reads the keys in `dir` that still verify.
    ///
    /// # Errors
    /// When a file cannot be read or holds no key.
    pub fn load(dir: &Path, now: i64) -> Result<Self, RingError> {
        let read = |source| FileError::Io {
            doing: "list",
            path: dir.to_owned(),
            source,
        };
        let mut keys = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let Some((not_before, expires)) = window(&path) else {
                continue;
            };
            if expires + VERIFIES_S <= now {
                continue;
            }
            let key = SigningKey::from_bytes(&read_secret(&path)?)
                .map_err(|source| RingError::Key { path, source })?;
            keys.push(Held {
                key,
                not_before,
                expires,
            });
        }
        keys.sort_by_key(|held| held.not_before);
        Ok(KeyRing {
            dir: dir.to_owned(),
            keys,
        })
    }

    /// Makes a new key where the newest is missing or near its end. True if it did: the nodes must
    /// be told.
    ///
    /// # Errors
    /// When the key cannot be made or written.
    pub fn renew(&mut self, now: i64) -> Result<bool, RingError> {
        if self
            .keys
            .iter()
            .any(|held| held.expires > now + RENEW_BEFORE_S)
        {
            return Ok(false);
        }
        self.rotate(now)?;
        Ok(true)
    }

    /// Makes a new key now, and answers its id. The nodes must be told.
    ///
    /// # Errors
    /// When the key cannot be made or written.
    pub fn rotate(&mut self, now: i64) -> Result<String, RingError> {
        let key = SigningKey::generate().map_err(RingError::Generate)?;
        // Newer than the newest, so that it goes before it, and its file is another.
        let newest = self.keys.iter().map(|held| held.not_before).max();
        let not_before = newest.map_or(now, |newest| now.max(newest + 1));
        let kid = key.kid().to_owned();
        let held = Held {
            key,
            not_before,
            expires: not_before + LIFE_S,
        };
        let path = self
            .dir
            .join(format!("ticket-{}-{}.key", held.not_before, held.expires));
        create_secret(&path, held.key.to_bytes())?;
        self.keys.push(held);
        Ok(kid)
    }

    /// The public halves of all keys that still verify.
    #[must_use]
    pub fn published(&self, now: i64) -> Vec<TicketKey> {
        let live = self
            .keys
            .iter()
            .filter(|held| held.expires + VERIFIES_S > now);
        live.map(|held| TicketKey {
            kid: held.key.kid().to_owned(),
            public: held.key.public(),
            not_before: held.not_before,
            expires: held.expires,
        })
        .collect()
    }

    /// The newest key that may sign now and that the node has said it knows.
    #[must_use]
    pub fn signer(&self, acknowledged: &[String], now: i64) -> Option<&SigningKey> {
        self.keys
            .iter()
            .rev()
            .filter(|held| held.not_before <= now && now < held.expires)
            .map(|held| &held.key)
            .find(|key| acknowledged.iter().any(|kid| kid == key.kid()))
    }
}

/// The window in a key file's name.
fn window(path: &Path) -> Option<(i64, i64)> {
    let name = path.file_name()?.to_str()?;
    let (not_before, expires) = name
        .strip_prefix("ticket-")?
        .strip_suffix(".key")?
        .split_once('-')?;
    Some((not_before.parse().ok()?, expires.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_comes_in_time_and_signs_only_when_known() {
        let dir = tempfile::tempdir().unwrap();
        let now = 1_000_000;
        let mut ring = KeyRing::load(dir.path(), now).unwrap();
        assert!(ring.renew(now).unwrap() && !ring.renew(now + 1).unwrap());
        let first = ring.published(now)[0].kid.clone();

        let late = now + LIFE_S - RENEW_BEFORE_S;
        assert!(ring.renew(late).unwrap());
        let both: Vec<String> = ring
            .published(late)
            .into_iter()
            .map(|key| key.kid)
            .collect();
        assert_eq!((both.len(), &both[0]), (2, &first));
        let signer = |known: &[String], at| ring.signer(known, at).map(|key| key.kid().to_owned());
        assert_eq!(signer(&[], late), None);
        assert_eq!(
            signer(&both[..1], late).as_ref(),
            Some(&first),
            "the old one until it knows"
        );
        assert_eq!(signer(&both, late).as_ref(), Some(&both[1]));
        assert_eq!(
            signer(&both[..1], now + LIFE_S),
            None,
            "expired keys sign nothing"
        );

        let again = KeyRing::load(dir.path(), late).unwrap();
        assert_eq!(again.published(late), ring.published(late));
        let gone = now + LIFE_S + VERIFIES_S;
        assert_eq!(again.published(gone - 1).len(), 2);
        assert_eq!(
            KeyRing::load(dir.path(), gone)
                .unwrap()
                .published(gone)
                .len(),
            1
        );
    }
}
