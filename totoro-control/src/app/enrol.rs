//! Enrolment: a one-time token for the hash of a key that the node made itself.

use std::net::IpAddr;

use totoro_api::Reason;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::{Enroll, Enrolled};

use super::{App, Failure};
use crate::audit::{self, Author};
use crate::keys::{Purpose, TokenKind};
use crate::push;
use crate::records::{Change, EnrolmentRecord, NodeRecord, key};

impl App {
    /// Binds the node's key. The same token with the same key is fine until the key's first use,
    /// so that a lost answer costs nothing; after it, and with another key, the token is void.
    ///
    /// # Errors
    /// `not_authorized` for any token that does not hold; malformed fields.
    pub async fn enrol(
        &self,
        token: &str,
        enroll: &Enroll,
        address: IpAddr,
        request_id: &str,
    ) -> Result<Enrolled, Failure> {
        if !TokenKind::Enrolment.fits(token) {
            return Err(Reason::NotAuthorized.into());
        }
        let hex =
            |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
        if !hex(&enroll.key_hash, 64) {
            return Err(Failure::malformed(
                "key_hash: BLAKE3 of the key in 64 hex digits",
            ));
        }
        if !hex(&enroll.instance, 32) {
            return Err(Failure::malformed(
                "instance: 128 random bits in 32 hex digits",
            ));
        }
        let at = key::enrolment(&self.secret.hash_hex(Purpose::Enrolment, token));
        let hash = self.node_key_hash(&enroll.key_hash.to_ascii_lowercase());
        let (now, now_ms) = (self.now(), self.now_ms());
        let (record, _) = self
            .transact(|tx| {
                let enrolment = tx
                    .get::<EnrolmentRecord>(&at)?
                    .ok_or(Reason::NotAuthorized)?
                    .value;
                let found = tx.get::<NodeRecord>(&key::node(&enrolment.node))?;
                let mut node = found.ok_or(Reason::NotAuthorized)?.value;
                if let Some(used_for) = &enrolment.used_for {
                    let repeated = *used_for == hash
                        && node.key.as_ref() == Some(&hash)
                        && node.instance == enroll.instance
                        && !node.key_used;
                    return if repeated {
                        Ok(node)
                    } else {
                        Err(Reason::NotAuthorized.into())
                    };
                }
                if enrolment.expires_at <= now {
                    return Err(Reason::NotAuthorized.into());
                }
                // A key is one node's: the same one again would make two nodes of one.
                if tx.get::<String>(&key::node_key(&hash))?.is_some() {
                    return Err(Failure::refused(
                        Reason::Conflict,
                        "this key is enrolled already",
                    ));
                }
                let former = [node.key.take(), node.old_key.take().map(|old| old.hash)];
                for old in former.into_iter().flatten() {
                    tx.delete(key::node_key(&old));
                }
                node.key = Some(hash.clone());
                node.instance.clone_from(&enroll.instance);
                node.key_used = false;
                node.callback = enroll.callback;
                tx.put(key::node(&node.id), &node)?;
                tx.put(key::node_key(&hash), &node.id)?;
                tx.put(
                    &at,
                    &EnrolmentRecord {
                        used_for: Some(hash.clone()),
                        ..enrolment
                    },
                )?;
                // What the former installation knew of keys says nothing of this one.
                tx.delete(key::applied(&node.id));
                push::touch(tx, &node.id, &Change::Node)?;
                let author = Author::remote("node", &node.id, address, request_id);
                let detail = serde_json::json!({
                    "instance": node.instance, "callback": node.callback,
                });
                let event = author
                    .event(kind::NODE_ENROLLED)
                    .node(&node.id)
                    .detail(detail);
                audit::record(tx, event, now_ms)?;
                Ok(node)
            })
            .await?;
        Ok(Enrolled {
            node: record.id,
            name: record.said.name,
            pool: record.said.pool,
            server_addr: record.said.server_addr,
        })
    }
}
