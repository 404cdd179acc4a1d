//! A node's key and its rotation: the old key works until the new one's first use, a day at most.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use subtle::ConstantTimeEq as _;
use totoro_api::Reason;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::{KeyRotated, NewKey};

use super::{App, Caller, Failure};
use crate::audit;
use crate::records::{NodeRecord, OldKey, key};
use crate::store::Tx;

/// How long an old key works at most, seconds.
const OVERLAP_S: i64 = 86_400;

/// Old keys that are over because the new one was used, by node. Held here until the store has it:
/// a key is read with every request, and only once is there something to write.
#[derive(Default)]
pub(super) struct Retired(Mutex<HashMap<String, String>>);

impl Retired {
    fn note(&self, node: &str, old: &str) {
        self.lock().insert(node.to_owned(), old.to_owned());
    }

    fn is(&self, node: &str, old: &str) -> bool {
        self.lock().get(node).is_some_and(|retired| retired == old)
    }

    fn all(&self) -> Vec<(String, String)> {
        let retired = self.lock();
        let pair = |(node, old): (&String, &String)| (node.clone(), old.clone());
        retired.iter().map(pair).collect()
    }

    fn forget(&self, node: &str, old: &str) {
        let mut retired = self.lock();
        if retired.get(node).is_some_and(|retired| retired == old) {
            retired.remove(node);
        }
    }

    /// Locked for map look-ups only, never across an await.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl App {
    /// Whether this is the keyed hash of a key of the node. The new one's first use ends the old
    /// one, from this moment on.
    pub(super) fn is_key_of(&self, node: &NodeRecord, hash: &str) -> bool {
        let equals = |kept: &str| bool::from(kept.as_bytes().ct_eq(hash.as_bytes()));
        let is_current = equals(node.key.as_deref().unwrap_or(""));
        let Some(old) = &node.old_key else {
            return is_current;
        };
        let is_old = equals(&old.hash) && old.until > self.now();
        if is_current {
            self.retired.note(&node.id, &old.hash);
        }
        is_current || (is_old && !self.retired.is(&node.id, &old.hash))
    }

    /// Takes a new key of the node's making. `shown` is the key that came with the request: it goes
    /// on for a while. The same new key again changes nothing.
    ///
    /// # Errors
    /// Malformed fields; `conflict` when the key is another's; `not_authorized` when the shown key
    /// was replaced meanwhile.
    pub async fn rotate_key(
        &self,
        caller: &Caller,
        shown: &str,
        new: &NewKey,
    ) -> Result<KeyRotated, Failure> {
        let node = caller.node(None)?;
        let hex = new.key_hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if new.key_hash.len() != 64 || !hex {
            let detail = "key_hash: BLAKE3 of the key in 64 hex digits";
            return Err(Failure::malformed(detail));
        }
        let hash = self.node_key_hash(&new.key_hash.to_ascii_lowercase());
        let shown = self.node_key_hash(blake3::hash(shown.as_bytes()).to_hex().as_str());
        let (now, now_ms) = (self.now(), self.now_ms());
        let (old, _) = self
            .transact(|tx| {
                let found = tx.get::<NodeRecord>(&key::node(node))?;
                let mut record = found.ok_or(Reason::NotAuthorized)?.value;
                if !self.is_key_of(&record, &shown) {
                    return Err(Reason::NotAuthorized.into());
                }
                if record.key.as_ref() == Some(&hash) {
                    return Ok(record.old_key.filter(|old| old.hash == shown));
                }
                if tx.get::<String>(&key::node_key(&hash))?.is_some() {
                    let detail = "this key is enrolled already";
                    return Err(Failure::refused(Reason::Conflict, detail));
                }
                let old = match record.old_key.take() {
                    // The new one was lost before its first use. The old one's end stays.
                    Some(old) if old.hash == shown => {
                        if let Some(lost) = &record.key {
                            tx.delete(key::node_key(lost));
                        }
                        old
                    }
                    older => {
                        if let Some(older) = older {
                            tx.delete(key::node_key(&older.hash));
                        }
                        let until = now + OVERLAP_S;
                        tx.put(key::key_end(until, node), &())?;
                        OldKey {
                            hash: shown.clone(),
                            until,
                        }
                    }
                };
                record.key = Some(hash.clone());
                record.old_key = Some(old.clone());
                tx.put(key::node_key(&hash), &record.id)?;
                tx.put(key::node(node), &record)?;
                let detail = serde_json::json!({ "old_until": rfc3339(old.until) });
                let event = caller.author.event(kind::NODE_KEY_ROTATED).node(node);
                audit::record(tx, event.detail(detail), now_ms)?;
                Ok(Some(old))
            })
            .await?;
        let old_until = old.map(|old| rfc3339(old.until));
        Ok(KeyRotated { old_until })
    }

    /// Removes old keys whose successor was used.
    pub(super) async fn retire_keys(&self) -> Result<(), Failure> {
        for (node, old) in self.retired.all() {
            self.transact(|tx| end_old_key(tx, &node, |key| key.hash == old))
                .await?;
            self.retired.forget(&node, &old);
        }
        Ok(())
    }

    /// Removes old keys whose day is over.
    pub(super) async fn end_old_keys(&self) -> Result<(), Failure> {
        let now = self.now();
        self.forget_due(key::KEY_ENDS, |tx, node| {
            end_old_key(tx, node, |key| key.until <= now)
        })
        .await
    }
}

fn end_old_key(
    tx: &mut Tx<'_>,
    node: &str,
    is_over: impl Fn(&OldKey) -> bool,
) -> Result<(), Failure> {
    let Some(record) = tx.get::<NodeRecord>(&key::node(node))? else {
        return Ok(());
    };
    let mut record = record.value;
    if let Some(old) = record.old_key.take_if(|old| is_over(old)) {
        tx.delete(key::node_key(&old.hash));
        tx.put(key::node(node), &record)?;
    }
    Ok(())
}
