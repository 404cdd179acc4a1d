//! Making a node, and the tokens that machines are enrolled with.

use totoro_api::Reason;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::{NewNode, NodeCreated};

use super::idempotency::{Idempotency, KEPT_S, Seen, WHOLE};
use super::{App, Caller, Failure, node};
use crate::audit;
use crate::keys::{Purpose, TokenKind, new_id, random};
use crate::push;
use crate::records::{Change, EnrolmentRecord, IdempotencyRecord, NewNodeFields, NodeRecord, key};
use crate::store::{StoreError, Tx};

/// How long an enrolment token is good, seconds.
const ENROLMENT_S: i64 = 86_400;

impl App {
    /// Makes a node and its one-time enrolment token.
    ///
    /// # Errors
    /// Malformed fields; `conflict` when the name is taken.
    pub async fn create_node(
        &self,
        caller: &Caller,
        new: NewNode,
        request: Option<Idempotency<'_>>,
    ) -> Result<NodeCreated, Failure> {
        Self::checked_key(request)?;
        let said = NewNodeFields::from(new);
        node::check(&said)?;
        let (now, now_ms) = (self.now(), self.now_ms());
        let record = NodeRecord {
            id: new_id("n"),
            said,
            draining: false,
            disabled: false,
            key: None,
            old_key: None,
            instance: String::new(),
            key_used: false,
            callback: false,
            enrolment: None,
            created_at: now,
        };
        let (made, _) = self
            .transact(|tx| {
                let mut record = record.clone();
                if let Some(request) = request
                    && let Seen::Before(before) = self.seen(tx, WHOLE, request, now)?
                {
                    return Ok(self.created_before(WHOLE, request, &before));
                }
                let by_name = key::node_name(&record.said.name);
                if tx.get::<String>(&by_name)?.is_some() {
                    let detail = format!("there is a node named {}", record.said.name);
                    return Err(Failure::refused(Reason::Conflict, detail));
                }
                let token = self.token(WHOLE, request, (&record.id, 0));
                self.put_enrolment(tx, &mut record, &token, now)?;
                tx.put(&by_name, &record.id)?;
                push::touch(tx, &record.id, &Change::Node)?;
                if let Some(request) = request {
                    self.remember(tx, WHOLE, request, (&record.id, 0), now)?;
                }
                let event = caller.author.event(kind::ADMIN_NODE_CREATED);
                let detail = serde_json::json!({ "name": record.said.name });
                audit::record(tx, event.node(&record.id).detail(detail), now_ms)?;
                Ok(created(record.id, token, now))
            })
            .await?;
        Ok(made)
    }

    /// A new enrolment token for a node: for another machine, or because the key was lost. It voids
    /// the one before. What is enrolled goes on until the token is used.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn new_enrolment(
        &self,
        caller: &Caller,
        id: &str,
        request: Option<Idempotency<'_>>,
    ) -> Result<NodeCreated, Failure> {
        Self::checked_key(request)?;
        let (now, now_ms) = (self.now(), self.now_ms());
        let index = u32::from_be_bytes(random());
        let (made, _) = self
            .transact(|tx| {
                let found = tx.get::<NodeRecord>(&key::node(id))?;
                let mut record = found.ok_or(Reason::NotFound)?.value;
                if let Some(request) = request
                    && let Seen::Before(before) = self.seen(tx, id, request, now)?
                {
                    return Ok(self.created_before(id, request, &before));
                }
                let token = self.token(id, request, (id, index));
                self.put_enrolment(tx, &mut record, &token, now)?;
                if let Some(request) = request {
                    self.remember(tx, id, request, (id, index), now)?;
                }
                let event = caller.author.event(kind::ADMIN_NODE_TOKEN).node(id);
                audit::record(tx, event, now_ms)?;
                Ok(created(id.to_owned(), token, now))
            })
            .await?;
        Ok(made)
    }

    /// A token: derived where the request has a key, random where it has none.
    fn token(
        &self,
        scope: &str,
        request: Option<Idempotency<'_>>,
        (made, index): (&str, u32),
    ) -> String {
        match request {
            Some(request) => self.derived_token(scope, request.key, made, index),
            None => TokenKind::Enrolment.generate(),
        }
    }

    /// The answer that a repeated request got the first time.
    fn created_before(
        &self,
        scope: &str,
        request: Idempotency<'_>,
        before: &IdempotencyRecord,
    ) -> NodeCreated {
        let token = self.derived_token(scope, request.key, &before.made, before.index);
        created(before.made.clone(), token, before.expires_at - KEPT_S)
    }

    /// Writes the node with a new token in place of the one it had.
    fn put_enrolment(
        &self,
        tx: &mut Tx<'_>,
        node: &mut NodeRecord,
        token: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        let hash = self.secret.hash_hex(Purpose::Enrolment, token);
        if let Some(former) = node.enrolment.replace(hash.clone()) {
            tx.delete(key::enrolment(&former));
        }
        tx.put(key::node(&node.id), node)?;
        let record = EnrolmentRecord {
            node: node.id.clone(),
            expires_at: now + ENROLMENT_S,
            used_for: None,
        };
        tx.put(key::enrolment(&hash), &record)
    }
}

fn created(id: String, token: String, at: i64) -> NodeCreated {
    NodeCreated {
        id,
        token,
        token_expires_at: rfc3339(at + ENROLMENT_S),
    }
}
