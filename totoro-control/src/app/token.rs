//! Admins' tokens: named, scoped, for a time, revocable. Only keyed hashes of them are kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use serde_json::json;
use totoro_api::Reason;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::admin::{NewToken, Token, TokenPage, TokenScope};
use totoro_api::wire::event::kind;

use super::idempotency::{Idempotency, Seen};
use super::{App, Caller, Failure, checked_id, fields};
use crate::audit;
use crate::keys::{Purpose, TokenKind};
use crate::records::{AdminTokenRecord, key};
use crate::store::{StoreError, read, records};

/// Tokens at most.
const MAX_TOKENS: usize = 500;
/// The scope of Idempotency-Keys here: no node's id has a `/`.
const SCOPE: &str = "admin/tokens";
/// Digits of a token's hash in its id: enough to tell hundreds apart, and no way back.
const ID_DIGITS: usize = 12;

/// What part of the whole a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Nodes, sessions, bans.
    Nodes,
    /// Invites.
    Invites,
    /// The trail.
    Audit,
    /// Ticket keys.
    Keys,
    /// The figures of `/metrics`.
    Figures,
    /// All else: tokens, backups, and whatever has not been given an area.
    Rest,
}

/// What a request needs of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// What it is about.
    pub area: Area,
    /// Whether it changes anything.
    pub writes: bool,
}

impl Need {
    /// Whether a scope allows it.
    pub(crate) fn allowed_by(self, scope: TokenScope) -> bool {
        match scope {
            TokenScope::All => true,
            TokenScope::Read => !self.writes && self.area != Area::Rest,
            TokenScope::Nodes => self.area == Area::Nodes,
            TokenScope::Invites => self.area == Area::Invites,
            TokenScope::Audit => self.area == Area::Audit && !self.writes,
            TokenScope::Unknown => false,
        }
    }

    /// Whether one of these scopes allows it.
    ///
    /// # Errors
    /// [`Failure::OutOfScope`].
    pub(super) fn check(self, scopes: &[TokenScope]) -> Result<(), Failure> {
        if scopes.iter().any(|&scope| self.allowed_by(scope)) {
            return Ok(());
        }
        let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        Err(Failure::OutOfScope(names.join(", ")))
    }
}

/// When tokens were last used, by their hashes: written to the store now and then.
#[derive(Default)]
pub(super) struct Used(Mutex<HashMap<String, i64>>);

impl Used {
    pub(super) fn note(&self, hash: &str, now: i64) {
        self.lock().insert(hash.to_owned(), now);
    }

    fn of(&self, hash: &str) -> Option<i64> {
        self.lock().get(hash).copied()
    }

    fn take(&self) -> HashMap<String, i64> {
        std::mem::take(&mut *self.lock())
    }

    /// Locked for map look-ups only, never across an await.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// All tokens.
    ///
    /// # Errors
    /// When the store fails.
    pub fn tokens(&self) -> Result<TokenPage, Failure> {
        let mut items = Vec::new();
        for (hash, record) in records::<AdminTokenRecord>(&*self.store, key::ADMIN_TOKENS)? {
            let stored = read::<i64>(&*self.store, &key::token_used(&hash))?;
            let used = self.used.of(&hash).or(stored.map(|stored| stored.value));
            items.push(Token {
                last_used_at: used.map(rfc3339),
                ..view(&hash, record.value)
            });
        }
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(TokenPage { items })
    }

    /// Makes a token. It is in this answer only.
    ///
    /// # Errors
    /// Malformed fields; `conflict` when the name is taken.
    pub async fn create_token(
        &self,
        caller: &Caller,
        new: &NewToken,
        request: Option<Idempotency<'_>>,
    ) -> Result<Token, Failure> {
        Self::checked_key(request)?;
        let bad = |_| Failure::malformed("name: letters, digits, - and _, at most 64");
        checked_id(&new.name).map_err(bad)?;
        let mut scopes = new.scopes.clone();
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() || scopes.contains(&TokenScope::Unknown) {
            let detail = "scopes: one or more of read, nodes, invites, audit, all";
            return Err(Failure::malformed(detail));
        }
        let expires_at = fields::when("expires_at", new.expires_at.as_deref().unwrap_or(""))?;
        let (now, now_ms) = (self.now(), self.now_ms());
        let salt = crate::keys::random_hex::<16>();
        let (made, _) = self
            .transact(|tx| {
                if let Some(request) = request
                    && let Seen::Before(before) = self.seen(tx, SCOPE, request, now)?
                {
                    let token = self.derived_admin_token(request.key, &before.made);
                    let hash = self.secret.hash_hex(Purpose::Admin, &token);
                    let record = tx.peek::<AdminTokenRecord>(&key::admin_token(&hash))?;
                    let record = record.ok_or(Reason::NotFound)?.value;
                    return Ok((token, hash, record));
                }
                // Not sooner: a repeat is answered whatever the time is by then.
                fields::to_come("expires_at", expires_at, now)?;
                // All changes of tokens go through this one key: names stay unique.
                tx.get::<()>(key::TOKENS_TURN)?;
                tx.put(key::TOKENS_TURN, &())?;
                let all = records::<AdminTokenRecord>(&*self.store, key::ADMIN_TOKENS)?;
                if all.iter().any(|(_, token)| token.value.name == new.name) {
                    let detail = format!("there is a token named {}", new.name);
                    return Err(Failure::refused(Reason::Conflict, detail));
                }
                if all.len() >= MAX_TOKENS {
                    let detail = format!("there are {MAX_TOKENS} tokens: revoke some");
                    return Err(Failure::refused(Reason::Conflict, detail));
                }
                let token = match request {
                    Some(request) => self.derived_admin_token(request.key, &salt),
                    None => TokenKind::Admin.generate(),
                };
                let hash = self.secret.hash_hex(Purpose::Admin, &token);
                let record = AdminTokenRecord {
                    name: new.name.clone(),
                    scopes: scopes.clone(),
                    created_at: Some(now),
                    expires_at,
                };
                tx.put(key::admin_token(&hash), &record)?;
                if let Some(request) = request {
                    self.remember(tx, SCOPE, request, (&salt, 0), now)?;
                }
                let detail = json!({
                    "token": id_of(&hash), "name": new.name, "scopes": scopes,
                    "expires_at": expires_at.map(rfc3339),
                });
                let event = caller.author.event(kind::ADMIN_TOKEN_CREATED);
                audit::record(tx, event.detail(detail), now_ms)?;
                Ok((token, hash, record))
            })
            .await?;
        let (token, hash, record) = made;
        Ok(Token {
            token: Some(token),
            ..view(&hash, record)
        })
    }

    /// Revokes a token: it opens nothing from now on.
    ///
    /// # Errors
    /// `not_found`; `conflict`, also when nobody could make another after it.
    pub async fn revoke_token(
        &self,
        caller: &Caller,
        id: &str,
        request: Option<Idempotency<'_>>,
    ) -> Result<(), Failure> {
        Self::checked_key(request)?;
        let (now, now_ms) = (self.now(), self.now_ms());
        self.transact(|tx| {
            tx.get::<()>(key::TOKENS_TURN)?;
            if self.repeated(tx, SCOPE, request, id, now)? {
                return Ok(());
            }
            let all = records::<AdminTokenRecord>(&*self.store, key::ADMIN_TOKENS)?;
            let lasts = |record: &AdminTokenRecord| {
                record.scopes.contains(&TokenScope::All) && record.expires_at.is_none()
            };
            let (mut found, mut others) = (None, 0);
            for (hash, token) in all {
                match id_of(&hash) == id {
                    true => found = Some((hash, token.value)),
                    false => others += usize::from(lasts(&token.value)),
                }
            }
            let (hash, record) = found.ok_or(Reason::NotFound)?;
            if others == 0 && lasts(&record) {
                let detail = "it is the last token with the scope all that does not expire: make \
                              another first";
                return Err(Failure::refused(Reason::Conflict, detail));
            }
            tx.put(key::TOKENS_TURN, &())?;
            tx.delete(key::admin_token(&hash));
            tx.delete(key::token_used(&hash));
            let detail = json!({ "token": id, "name": record.name });
            let event = caller.author.event(kind::ADMIN_TOKEN_REVOKED);
            Ok(audit::record(tx, event.detail(detail), now_ms)?)
        })
        .await?;
        Ok(())
    }

    /// Keeps when tokens were last used.
    pub(super) async fn keep_used(&self) -> Result<(), Failure> {
        let used = self.used.take();
        if used.is_empty() {
            return Ok(());
        }
        self.transact(|tx| {
            for (hash, at) in &used {
                // Not of one that was revoked meanwhile.
                if tx
                    .get::<AdminTokenRecord>(&key::admin_token(hash))?
                    .is_some()
                {
                    tx.put(key::token_used(hash), at)?;
                }
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// The token that this key made; `salt` tells it from that of the same key at another time.
    fn derived_admin_token(&self, key: &str, salt: &str) -> String {
        let parts = [SCOPE.as_bytes(), key.as_bytes(), salt.as_bytes()];
        TokenKind::Admin.of(self.secret.hash(Purpose::DerivedToken, &parts))
    }

    /// The token of this text, unless its time is over.
    pub(super) fn held_token(
        &self,
        text: &str,
    ) -> Result<Option<(String, AdminTokenRecord)>, StoreError> {
        if !TokenKind::Admin.fits(text) {
            return Ok(None);
        }
        let hash = self.secret.hash_hex(Purpose::Admin, text);
        let found = read::<AdminTokenRecord>(&*self.store, &key::admin_token(&hash))?;
        let now = self.now();
        let holds = |record: &AdminTokenRecord| record.expires_at.is_none_or(|at| at > now);
        let found = found.map(|found| found.value).filter(holds);
        Ok(found.map(|record| (hash, record)))
    }
}

fn id_of(hash: &str) -> String {
    format!("tok-{}", &hash[..ID_DIGITS.min(hash.len())])
}

fn view(hash: &str, record: AdminTokenRecord) -> Token {
    Token {
        id: id_of(hash),
        name: record.name,
        scopes: record.scopes,
        created_at: record.created_at.map(rfc3339),
        expires_at: record.expires_at.map(rfc3339),
        last_used_at: None,
        token: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_allow_their_own_and_no_more() {
        let need = |area, writes| Need { area, writes };
        let allows = |scope: TokenScope, area, writes| need(area, writes).allowed_by(scope);
        let areas = [
            Area::Nodes,
            Area::Invites,
            Area::Audit,
            Area::Keys,
            Area::Rest,
        ];
        for (scope, reads, writes) in [
            (TokenScope::All, [true; 5], [true; 5]),
            (
                TokenScope::Read,
                [true, true, true, true, false],
                [false; 5],
            ),
            (
                TokenScope::Nodes,
                [true, false, false, false, false],
                [true, false, false, false, false],
            ),
            (
                TokenScope::Invites,
                [false, true, false, false, false],
                [false, true, false, false, false],
            ),
            (
                TokenScope::Audit,
                [false, false, true, false, false],
                [false; 5],
            ),
            (TokenScope::Unknown, [false; 5], [false; 5]),
        ] {
            assert_eq!(
                areas.map(|area| allows(scope, area, false)),
                reads,
                "{scope:?}"
            );
            assert_eq!(
                areas.map(|area| allows(scope, area, true)),
                writes,
                "{scope:?}"
            );
        }
        assert!(need(Area::Nodes, true).check(&[]).is_err());
    }
}
