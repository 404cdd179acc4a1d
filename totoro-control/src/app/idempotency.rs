//! Requests with an Idempotency-Key: a repeat answers what the first one did, for 24 hours. The
//! code or token that such a request makes is derived, so it can be told again though only its hash
//! is kept. A change or removal is not made again, and the answer is what there is by then. A key
//! counts within its scope: the node that the request is about, or the whole.

use totoro_api::Reason;
use totoro_api::code::InviteCode;

use super::{App, Failure};
use crate::keys::{Purpose, TokenKind, random};
use crate::records::{IdempotencyRecord, key};
use crate::store::Tx;

/// How long a request is remembered, seconds.
pub(super) const KEPT_S: i64 = 86_400;
/// The scope of requests about no node.
pub(super) const WHOLE: &str = "*";
/// The longest Idempotency-Key, bytes.
const MAX_KEY: usize = 128;
/// How many codes of one key are tried: one more is needed each time the same key is used again
/// after its record was forgotten.
pub(super) const MAX_INDEX: u32 = 1000;

/// One request and the key that came with it.
#[derive(Clone, Copy, Debug)]
pub struct Idempotency<'a> {
    /// The Idempotency-Key.
    pub key: &'a str,
    /// What is asked, of which version, and the body: the same key with another is a conflict.
    pub request: &'a str,
}

/// One that outlives who asks.
pub(super) struct Owned {
    key: String,
    request: String,
}

impl From<Idempotency<'_>> for Owned {
    fn from(lent: Idempotency<'_>) -> Self {
        Owned {
            key: lent.key.to_owned(),
            request: lent.request.to_owned(),
        }
    }
}

impl Owned {
    /// As it was.
    pub(super) fn lend(&self) -> Idempotency<'_> {
        Idempotency {
            key: &self.key,
            request: &self.request,
        }
    }
}

/// Whether a request is new.
pub(super) enum Seen {
    /// It was answered: by this record.
    Before(IdempotencyRecord),
    /// It is new.
    New,
}

impl App {
    /// Checks a key as clients write it.
    pub(super) fn checked_key(request: Option<Idempotency<'_>>) -> Result<(), Failure> {
        let fits = |key: &str| {
            !key.is_empty() && key.len() <= MAX_KEY && key.bytes().all(|b| b.is_ascii_graphic())
        };
        if request.is_none_or(|request| fits(request.key)) {
            return Ok(());
        }
        let detail = format!("Idempotency-Key: 1 to {MAX_KEY} printable ASCII characters");
        Err(Failure::malformed(detail))
    }

    /// Whether this request was made before.
    pub(super) fn seen(
        &self,
        tx: &mut Tx<'_>,
        scope: &str,
        request: Idempotency<'_>,
        now: i64,
    ) -> Result<Seen, Failure> {
        let Some(found) = tx.get::<IdempotencyRecord>(&self.key_of(scope, request))? else {
            return Ok(Seen::New);
        };
        let record = found.value;
        if record.expires_at <= now {
            return Ok(Seen::New);
        }
        if record.request != self.request_hash(request) {
            let detail = "this Idempotency-Key came with another request";
            return Err(Failure::refused(Reason::Conflict, detail));
        }
        Ok(Seen::Before(record))
    }

    /// Whether this change of something was made before. One that is new is remembered in the same
    /// commit, so where it is refused it is not.
    pub(super) fn repeated(
        &self,
        tx: &mut Tx<'_>,
        scope: &str,
        request: Option<Idempotency<'_>>,
        changed: &str,
        now: i64,
    ) -> Result<bool, Failure> {
        let Some(request) = request else {
            return Ok(false);
        };
        if let Seen::Before(_) = self.seen(tx, scope, request, now)? {
            return Ok(true);
        }
        self.remember(tx, scope, request, (changed, 0), now)?;
        Ok(false)
    }

    /// A code that no invite has: derived where the request has a key, random where it has none.
    /// With it its keyed hash and its index.
    pub(super) fn free_code(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        request: Option<Idempotency<'_>>,
    ) -> Result<(InviteCode, String, u32), Failure> {
        let Some(request) = request else {
            let code = InviteCode::from_entropy(random());
            let hash = self.code_hash(&code);
            // Of 100 random bits it is enough to look when they are written.
            tx.expect(key::code(&hash), None);
            return Ok((code, hash, 0));
        };
        for index in 0..MAX_INDEX {
            let code = self.derived_code(node, request.key, index);
            let hash = self.code_hash(&code);
            if tx.get::<String>(&key::code(&hash))?.is_none() {
                return Ok((code, hash, index));
            }
        }
        Err(Failure::refused(
            Reason::Conflict,
            "this Idempotency-Key was used too often",
        ))
    }

    /// The code that this key made.
    pub(super) fn derived_code(&self, node: &str, key: &str, index: u32) -> InviteCode {
        let parts: [&[u8]; 3] = [node.as_bytes(), key.as_bytes(), &index.to_be_bytes()];
        let hash = self.secret.hash(Purpose::DerivedCode, &parts);
        let mut entropy = [0; 16];
        entropy.copy_from_slice(&hash[..16]);
        InviteCode::from_entropy(entropy)
    }

    /// The enrolment token that this key made for a node. `made` and `index` tell it from that of
    /// the same key at another time: a token that is used or void never comes back.
    pub(super) fn derived_token(&self, scope: &str, key: &str, made: &str, index: u32) -> String {
        let index = index.to_be_bytes();
        let parts = [scope.as_bytes(), key.as_bytes(), made.as_bytes(), &index];
        TokenKind::Enrolment.of(self.secret.hash(Purpose::DerivedToken, &parts))
    }

    /// What a code is looked up by.
    pub(super) fn code_hash(&self, code: &InviteCode) -> String {
        self.secret
            .hash_hex(Purpose::InviteCode, &code.normalised())
    }

    /// Remembers the request.
    pub(super) fn remember(
        &self,
        tx: &mut Tx<'_>,
        scope: &str,
        request: Idempotency<'_>,
        (made, index): (&str, u32),
        now: i64,
    ) -> Result<(), Failure> {
        let at = self.key_of(scope, request);
        let expires_at = now + KEPT_S;
        let record = IdempotencyRecord {
            request: self.request_hash(request),
            made: made.to_owned(),
            index,
            expires_at,
        };
        tx.put(&at, &record)?;
        let hash = at.rsplit('/').next().unwrap_or_default();
        Ok(tx.put(key::idempotency_end(expires_at, hash), &())?)
    }

    fn key_of(&self, scope: &str, request: Idempotency<'_>) -> String {
        let parts: [&[u8]; 3] = [b"key", scope.as_bytes(), request.key.as_bytes()];
        let hash = self.secret.hash(Purpose::Idempotency, &parts);
        key::idempotency(&blake3::Hash::from_bytes(hash).to_hex())
    }

    fn request_hash(&self, request: Idempotency<'_>) -> String {
        let hash = self.secret.hash(
            Purpose::Idempotency,
            &[b"request", request.request.as_bytes()],
        );
        blake3::Hash::from_bytes(hash).to_hex().to_string()
    }
}
