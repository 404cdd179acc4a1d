//! The ticket keys as admins see them, and rotation now: a new key is pushed to the nodes at once,
//! and signs for each of them as soon as it has said that it knows it.

use std::sync::PoisonError;

use serde_json::json;
use totoro_api::Reason;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::admin::{TicketKeyEntry, TicketKeyPage};
use totoro_api::wire::event::kind;
use totoro_api::wire::push::TicketKey;

use super::idempotency::{Idempotency, Seen};
use super::{App, Caller, Failure};
use crate::audit;
use crate::records::{AppliedRecord, key};
use crate::store::{names, read};

/// Keys that may be live at once: nodes acknowledge no more than 16 of them.
const MAX_KEYS: usize = 8;
/// Nodes that are named as waiting for a key, at most.
const MAX_WAITING: usize = 100;
/// The scope of Idempotency-Keys here: no node's id has a `/`.
const SCOPE: &str = "admin/ticket-keys";

impl App {
    /// The keys and who has acknowledged them, newest first.
    ///
    /// # Errors
    /// When the store fails.
    pub fn ticket_key_list(&self) -> Result<TicketKeyPage, Failure> {
        let now = self.now();
        let mut items: Vec<TicketKeyEntry> = self
            .ticket_keys()
            .iter()
            .map(|key| view(key, now))
            .collect();
        items.reverse();
        for node in names(&*self.store, key::NODES)? {
            let applied = read::<AppliedRecord>(&*self.store, &key::applied(&node))?;
            let known = applied
                .map(|applied| applied.value.keys)
                .unwrap_or_default();
            let signer = self
                .ring()
                .signer(&known, now)
                .map(|key| key.kid().to_owned());
            for item in &mut items {
                item.signs_for += u64::from(signer.as_ref() == Some(&item.kid));
                if known.contains(&item.kid) {
                    item.acknowledged += 1;
                } else if item.waiting.len() < MAX_WAITING {
                    item.waiting.push(node.clone());
                }
            }
        }
        Ok(TicketKeyPage { items })
    }

    /// Makes a new key now and pushes it.
    ///
    /// # Errors
    /// `conflict` when there are many already; when the key cannot be written.
    pub async fn rotate_ticket_key(
        &self,
        caller: &Caller,
        request: Option<Idempotency<'_>>,
    ) -> Result<TicketKeyPage, Failure> {
        Self::checked_key(request)?;
        // One at a time: a key is a file, which no transaction takes back.
        let _turn = self.rotating.lock().await;
        let (now, now_ms) = (self.now(), self.now_ms());
        if let Some(request) = request {
            let seen = self
                .transact(|tx| self.seen(tx, SCOPE, request, now))
                .await?;
            if matches!(seen.0, Seen::Before(_)) {
                return self.ticket_key_list();
            }
        }
        let kid = {
            let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
            let live = ring.published(now);
            if live.len() >= MAX_KEYS {
                let first = live.iter().map(|key| key.expires).min().unwrap_or(now);
                let detail = format!(
                    "there are {MAX_KEYS} keys; the first ends {}",
                    rfc3339(first)
                );
                return Err(Failure::refused(Reason::Conflict, detail));
            }
            ring.rotate(now)?
        };
        self.transact(|tx| {
            if let Some(request) = request {
                self.remember(tx, SCOPE, request, (&kid, 0), now)?;
            }
            let event = caller.author.event(kind::ADMIN_TICKET_KEY_ROTATED);
            Ok(audit::record(
                tx,
                event.detail(json!({ "kid": kid })),
                now_ms,
            )?)
        })
        .await?;
        self.tell_keys().await?;
        self.ticket_key_list()
    }
}

fn view(key: &TicketKey, now: i64) -> TicketKeyEntry {
    TicketKeyEntry {
        kid: key.kid.clone(),
        not_before: rfc3339(key.not_before),
        expires_at: rfc3339(key.expires),
        age_s: u64::try_from(now - key.not_before).unwrap_or(0),
        signs_for: 0,
        acknowledged: 0,
        waiting: Vec::new(),
    }
}
