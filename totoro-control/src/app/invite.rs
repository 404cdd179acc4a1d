//! Invites: making one, showing one.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::code::InviteCode;
use totoro_api::limits::Limits;
use totoro_api::ticket::rfc3339;
use totoro_api::wire::event::kind;
use totoro_api::wire::invite::{Invite, NewInvite};
use totoro_api::wire::push::InviteState;

use super::crowd::Room;
use super::idempotency::{Idempotency, Owned, Seen};
use super::transact::to_its_end;
use super::{App, Caller, Failure, checked_id, fields, invite_over, node};
use crate::audit;
use crate::keys::new_id;
use crate::push;
use crate::records::{Change, InviteRecord, NodeRecord, key};
use crate::store::{Record, Tx, read};

/// The longest label, characters.
const MAX_LABEL: usize = 80;
/// The longest note, characters.
const MAX_NOTE: usize = 300;

/// New invites as they were asked for, for making them where who asked may be gone by the end.
pub(super) struct Asked {
    app: Arc<App>,
    caller: Caller,
    new: NewInvite,
    request: Option<Owned>,
}

impl Asked {
    /// All of it, owned.
    pub(super) fn of(
        app: &Arc<App>,
        caller: &Caller,
        new: &NewInvite,
        request: Option<Idempotency<'_>>,
    ) -> Self {
        Asked {
            app: Arc::clone(app),
            caller: caller.clone(),
            new: new.clone(),
            request: request.map(Owned::from),
        }
    }

    /// As it was.
    pub(super) fn lend(&self) -> (&App, &Caller, &NewInvite, Option<Idempotency<'_>>) {
        let request = self.request.as_ref().map(Owned::lend);
        (&self.app, &self.caller, &self.new, request)
    }
}

impl App {
    /// Makes an invite. Its code is in this answer only.
    ///
    /// # Errors
    /// Malformed fields; `unsupported` when the node cannot enforce a limit; `max_invites` when it has
    /// as many as it may have; `conflict`.
    pub async fn create_invite(
        self: &Arc<Self>,
        caller: &Caller,
        new: &NewInvite,
        request: Option<Idempotency<'_>>,
    ) -> Result<Invite, Failure> {
        let asked = Asked::of(self, caller, new, request);
        to_its_end(async move {
            let (app, caller, new, request) = asked.lend();
            app.make_invite(caller, new, request).await
        })
        .await
    }

    async fn make_invite(
        &self,
        caller: &Caller,
        new: &NewInvite,
        request: Option<Idempotency<'_>>,
    ) -> Result<Invite, Failure> {
        Self::checked_key(request)?;
        let node = self.node_id(caller.node(new.node.as_deref())?)?;
        check_texts(&new.label, &new.note)?;
        let expires_at = fields::when("expires_at", new.expires_at.as_deref().unwrap_or(""))?;
        let (now, now_ms) = (self.now(), self.now_ms());
        let mut room = None;
        let ((record, code), revision) = self
            .transact(|tx| {
                if let Some(request) = request
                    && let Seen::Before(before) = self.seen(tx, &node, request, now)?
                {
                    return self.answer_again(tx, &node, request.key, &before);
                }
                // Not sooner: a repeat is answered whatever the time is by then.
                fields::to_come("expires_at", expires_at, now)?;
                // Read again: a limit must fit the pool as it is when the invite is made.
                let found = self.node_held(tx, &node)?;
                let node = found.ok_or(Reason::NodeUnknown)?;
                self.check_limits(&node, &new.limits)?;
                // Kept for when others were first.
                if room.is_none() {
                    room = Some(self.room_for(&node.id, 1)?);
                }
                let (code, hash, index) = self.free_code(tx, &node.id, request)?;
                let record = first_record(new, &node.id, hash, now, expires_at);
                put_new(tx, caller, &record, now_ms)?;
                push::touch(tx, &node.id, &Change::Invite(record.id.clone()))?;
                if let Some(request) = request {
                    self.remember(tx, &node.id, request, (&record.id, index), now)?;
                }
                Ok((record, code))
            })
            .await?;
        // Nothing was committed when the request was a repeat: its version is the record's.
        let version = if revision == 0 {
            self.invite_record(caller, &record.id)?.revision
        } else {
            room.into_iter().for_each(Room::filled);
            revision
        };
        Ok(view(
            Record {
                revision: version,
                value: record,
            },
            now,
            Some(&code),
        ))
    }

    /// The answer that a repeated request got the first time.
    pub(super) fn answer_again(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        request_key: &str,
        before: &crate::records::IdempotencyRecord,
    ) -> Result<(InviteRecord, InviteCode), Failure> {
        let record = tx
            .peek::<InviteRecord>(&key::invite(&before.made))?
            .ok_or(Reason::NotFound)?;
        let code = self.derived_code(node, request_key, before.index);
        Ok((record.value, code))
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
}

/// A new invite as it is first written; `code` is its code's hash, times are Unix seconds.
pub(super) fn first_record(
    new: &NewInvite,
    node: &str,
    code: String,
    now: i64,
    expires_at: Option<i64>,
) -> InviteRecord {
    InviteRecord {
        id: new_id("inv"),
        node: node.to_owned(),
        label: new.label.clone(),
        state: InviteState::Active,
        epoch: 1,
        limits: new.limits.clone(),
        code,
        created_at: now,
        expires_at,
        revoked_at: None,
        note: new.note.clone(),
    }
}

/// Writes a new invite, what it is found by, and its event. Its node is still to be told.
pub(super) fn put_new(
    tx: &mut Tx<'_>,
    caller: &Caller,
    record: &InviteRecord,
    now_ms: i64,
) -> Result<(), Failure> {
    tx.put(key::code(&record.code), &record.id)?;
    tx.put(
        format!("{}{}", key::invites_of(&record.node), record.id),
        &(),
    )?;
    write(tx, None, record, now_ms / 1000)?;
    let detail = serde_json::json!({ "label": record.label, "limits": record.limits });
    let event = caller.author.event(kind::INVITE_CREATED);
    let event = event.node(&record.node).invite(&record.id).detail(detail);
    Ok(audit::record(tx, event, now_ms)?)
}

/// Writes an invite, moves the mark of its end and tells its node.
pub(super) fn put_invite(
    tx: &mut Tx<'_>,
    before: Option<&InviteRecord>,
    record: &InviteRecord,
    now: i64,
) -> Result<(), Failure> {
    write(tx, before, record, now)?;
    Ok(push::touch(
        tx,
        &record.node,
        &Change::Invite(record.id.clone()),
    )?)
}

/// Writes an invite and moves the mark of its end. The mark of an end that stays as
/// it was is left alone: once that has come, its mark is gone and its event told. So it is where an
/// invite was expired and still is: another mark would tell it twice, and only when it is to be
/// forgotten is another time.
fn write(
    tx: &mut Tx<'_>,
    before: Option<&InviteRecord>,
    record: &InviteRecord,
    now: i64,
) -> Result<(), Failure> {
    tx.put(key::invite(&record.id), record)?;
    let expired = |record: &InviteRecord| record.state_at(now) == InviteState::Expired;
    let end_before = before.and_then(|before| before.expires_at);
    if end_before == record.expires_at {
        return Ok(());
    }
    if before.is_some_and(expired) && expired(record) {
        return Ok(invite_over::over(tx, record, now)?);
    }
    if let Some(at) = end_before {
        tx.delete(key::expiry(at, &record.id));
    }
    if let Some(at) = record.expires_at {
        tx.put(key::expiry(at, &record.id), &())?;
    }
    Ok(())
}

/// An invite as it is shown.
pub(super) fn view(record: Record<InviteRecord>, now: i64, code: Option<&InviteCode>) -> Invite {
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
        code: code.map(ToString::to_string),
        code_qr: code.map(InviteCode::qr),
    }
}

/// Checks what people write for people.
pub(super) fn check_texts(label: &str, note: &str) -> Result<(), Failure> {
    fields::text("label", label, MAX_LABEL)?;
    fields::text("note", note, MAX_NOTE)
}
