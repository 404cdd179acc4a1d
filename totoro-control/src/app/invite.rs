//! Invites: making, listing, showing.

use totoro_api::Reason;
use totoro_api::limits::Limits;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::event::kind;
use totoro_api::wire::invite::{Invite, InvitePage, NewInvite};
use totoro_api::wire::push::InviteState;

use super::idempotency::{Idempotency, Seen};
use super::{App, Caller, Failure, Reach, checked_id, fields, node};
use crate::audit;
use crate::keys::new_id;
use crate::push;
use crate::records::{Change, InviteRecord, NodeRecord, key};
use crate::store::{Range, Record, Tx, prefix_end, read};

/// The longest label, characters.
const MAX_LABEL: usize = 80;
/// The longest note, characters.
const MAX_NOTE: usize = 300;

impl App {
    /// Makes an invite. Its code is in this answer only.
    ///
    /// # Errors
    /// Malformed fields; `unsupported` when the node cannot enforce a limit; `conflict`.
    pub async fn create_invite(
        &self,
        caller: &Caller,
        new: &NewInvite,
        request: Option<Idempotency<'_>>,
    ) -> Result<Invite, Failure> {
        Self::checked_key(request)?;
        let node = self.node_named(caller.node(new.node.as_deref())?)?.value;
        check_texts(&new.label, &new.note)?;
        let expires_at = fields::when("expires_at", new.expires_at.as_deref().unwrap_or(""))?;
        let (now, now_ms) = (self.now(), self.now_ms());
        let ((record, code), revision) = self
            .transact(|tx| {
                if let Some(request) = request
                    && let Seen::Before(before) = self.seen(tx, &node.id, request, now)?
                {
                    return self.answer_again(tx, &node.id, request.key, &before);
                }
                // Read again: a limit must fit the pool as it is when the invite is made.
                let found = tx.get::<NodeRecord>(&key::node(&node.id))?;
                let node = found.ok_or(Reason::NodeUnknown)?.value;
                self.check_limits(&node, &new.limits)?;
                let (code, hash, index) = self.free_code(tx, &node.id, request)?;
                let record = InviteRecord {
                    id: new_id("inv"),
                    node: node.id.clone(),
                    label: new.label.clone(),
                    state: InviteState::Active,
                    epoch: 1,
                    limits: new.limits.clone(),
                    code: hash,
                    created_at: now,
                    expires_at,
                    revoked_at: None,
                    note: new.note.clone(),
                };
                tx.put(&key::code(&record.code), &record.id)?;
                tx.put(&format!("{}{}", key::invites_of(&node.id), record.id), &())?;
                put_invite(tx, None, &record)?;
                if let Some(request) = request {
                    self.remember(tx, &node.id, request, (&record.id, index), now)?;
                }
                let detail = serde_json::json!({ "label": record.label, "limits": record.limits });
                let event = caller.author.event(kind::INVITE_CREATED);
                let event = event.node(&node.id).invite(&record.id).detail(detail);
                audit::record(tx, event, now_ms)?;
                Ok((record, code.to_string()))
            })
            .await?;
        // Nothing was committed when the request was a repeat: its version is the record's.
        let version = if revision == 0 {
            self.invite_record(caller, &record.id)?.revision
        } else {
            revision
        };
        Ok(view(
            Record {
                revision: version,
                value: record,
            },
            now,
            Some(code),
        ))
    }

    /// The answer that a repeated request got the first time.
    pub(super) fn answer_again(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        request_key: &str,
        before: &crate::records::IdempotencyRecord,
    ) -> Result<(InviteRecord, String), Failure> {
        let record = tx
            .peek::<InviteRecord>(&key::invite(&before.made))?
            .ok_or(Reason::NotFound)?;
        let code = self.derived_code(node, request_key, before.index);
        Ok((record.value, code.to_string()))
    }

    /// Limits that a person wrote: well-formed, within the pool, and enforceable by the node as it
    /// last reported.
    pub(super) fn check_limits(&self, node: &NodeRecord, limits: &Limits) -> Result<(), Failure> {
        fields::limits("limits", limits, &node.said.pool)?;
        let Some(seen) = self.reported(node) else {
            return Ok(());
        };
        let features = &seen.heartbeat.features;
        let asked = [
            ("max_conns", limits.max_conns.is_some()),
            ("max_flows", limits.max_flows.is_some()),
            (
                "max_conns_per_source",
                limits.max_conns_per_source.is_some(),
            ),
            ("conn_rate", limits.conn_rate.is_some()),
        ];
        for (name, is_asked) in asked {
            // A node that names no features at all is an old one; it refuses what it cannot hold.
            if is_asked && !features.is_empty() && !features.iter().any(|feature| feature == name) {
                let grade = node::unenforced(seen.heartbeat.grade).join(", ");
                return Err(Failure::refused(
                    Reason::Unsupported,
                    format!(
                        "limits.{name}: node {} cannot enforce it ({grade})",
                        node.said.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// An invite within the caller's reach.
    ///
    /// # Errors
    /// `not_found`.
    pub fn invite_record(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Record<InviteRecord>, Failure> {
        let found = read::<InviteRecord>(&*self.store, &key::invite(checked_id(id)?))?;
        Ok(found
            .filter(|record| caller.reaches(&record.value.node))
            .ok_or(Reason::NotFound)?)
    }

    /// An invite within the caller's reach, as it is shown.
    ///
    /// # Errors
    /// `not_found`.
    pub fn invite(&self, caller: &Caller, id: &str) -> Result<Invite, Failure> {
        Ok(view(self.invite_record(caller, id)?, self.now(), None))
    }

    /// A page of invites within the caller's reach, in the order of their ids.
    ///
    /// # Errors
    /// `node_unknown`, or when the store fails.
    pub fn invites(
        &self,
        caller: &Caller,
        node: Option<&str>,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<InvitePage, Failure> {
        let prefix = match (&caller.reach, node) {
            (Reach::All, None) => key::INVITES.to_owned(),
            _ => key::invites_of(&self.node_named(caller.node(node)?)?.value.id),
        };
        let cursor = cursor.map(checked_id).transpose()?;
        let from = format!(
            "{prefix}{}",
            cursor.map(|id| format!("{id}\0")).unwrap_or_default()
        );
        let to = prefix_end(prefix.as_bytes());
        let range = Range {
            from: from.as_bytes(),
            to: &to,
            limit: limit + 1,
            reverse: false,
        };
        let mut ids: Vec<String> = self
            .store
            .range(range)?
            .into_iter()
            .map(|(at, _)| String::from_utf8_lossy(&at[prefix.len()..]).into_owned())
            .collect();
        let next = node::cut(&mut ids, limit, String::clone);
        let now = self.now();
        let mut items = Vec::with_capacity(ids.len());
        for id in ids {
            let record = read::<InviteRecord>(&*self.store, &key::invite(&id))?;
            items.extend(record.map(|record| view(record, now, None)));
        }
        Ok(InvitePage { items, next })
    }
}

/// Writes an invite, moves the mark of its end and tells its node. The mark of an end that stays as
/// it was is left alone: once that has come, its mark is gone and its event told.
pub(super) fn put_invite(
    tx: &mut Tx<'_>,
    before: Option<&InviteRecord>,
    record: &InviteRecord,
) -> Result<(), Failure> {
    tx.put(&key::invite(&record.id), record)?;
    let end_before = before.and_then(|before| before.expires_at);
    if end_before != record.expires_at {
        if let Some(at) = end_before {
            tx.delete(&key::expiry(at, &record.id));
        }
        if let Some(at) = record.expires_at {
            tx.put(&key::expiry(at, &record.id), &())?;
        }
    }
    Ok(push::touch(
        tx,
        &record.node,
        &Change::Invite(record.id.clone()),
    )?)
}

/// An invite as it is shown.
pub(super) fn view(record: Record<InviteRecord>, now: i64, code: Option<String>) -> Invite {
    let Record {
        revision: version,
        value: record,
    } = record;
    Invite {
        state: record.state_at(now),
        id: record.id,
        node: record.node,
        label: record.label,
        epoch: record.epoch,
        limits: record.limits,
        created_at: rfc3339(record.created_at),
        expires_at: record.expires_at.map(rfc3339),
        note: record.note,
        version,
        code,
    }
}

/// Checks what people write for people.
pub(super) fn check_texts(label: &str, note: &str) -> Result<(), Failure> {
    fields::text("label", label, MAX_LABEL)?;
    fields::text("note", note, MAX_NOTE)
}
