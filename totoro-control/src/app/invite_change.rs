//! Changing an invite: limits, pause and resume, expiry, revocation, a new code.

use totoro_api::Reason;
use totoro_api::wire::event::kind;
use totoro_api::wire::invite::{ChangeInvite, Invite};
use totoro_api::wire::push::InviteState;

use super::idempotency::{Idempotency, Seen};
use super::invite::{check_texts, put_invite, view};
use super::{App, Caller, Failure, fields, invite_over};
use crate::audit;
use crate::records::{InviteRecord, NodeRecord, key};
use crate::store::{Record, Tx};

/// Which version the caller saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// It did not say.
    Absent,
    /// `*`: whichever there is.
    Any,
    /// This one.
    Version(u64),
    /// A weak one, which matches nothing.
    Weak,
}

impl IfMatch {
    /// Whether the caller said it at all: a repeat has to be as complete as the first one.
    ///
    /// # Errors
    /// [`Failure::Unconditional`].
    pub fn said(self, current: u64) -> Result<(), Failure> {
        match self {
            IfMatch::Absent => Err(Failure::Unconditional { current }),
            _ => Ok(()),
        }
    }

    /// Whether the caller saw the current version.
    ///
    /// # Errors
    /// [`Failure::Stale`], or [`Failure::Unconditional`] when it did not say.
    pub fn check(self, current: u64) -> Result<(), Failure> {
        match self {
            IfMatch::Any => Ok(()),
            IfMatch::Version(seen) if seen == current => Ok(()),
            IfMatch::Version(_) | IfMatch::Weak => Err(Failure::Stale { current }),
            IfMatch::Absent => Err(Failure::Unconditional { current }),
        }
    }
}

impl App {
    /// Changes an invite; what is absent stays. Lowered limits refuse new and cut nothing.
    ///
    /// # Errors
    /// `not_found`; a stale or missing version; malformed fields; `invite_revoked`, which is final;
    /// `conflict`.
    pub async fn change_invite(
        &self,
        caller: &Caller,
        id: &str,
        version: IfMatch,
        change: &ChangeInvite,
        request: Option<Idempotency<'_>>,
    ) -> Result<Invite, Failure> {
        Self::checked_key(request)?;
        check_texts(
            change.label.as_deref().unwrap_or(""),
            change.note.as_deref().unwrap_or(""),
        )?;
        let expires_at = change
            .expires_at
            .as_deref()
            .map(|text| fields::when("expires_at", text))
            .transpose()?;
        if matches!(
            change.state,
            Some(InviteState::Revoked | InviteState::Expired | InviteState::Unknown)
        ) {
            let detail = "state: write active or paused; DELETE revokes, expires_at expires";
            return Err(Failure::malformed(detail));
        }
        let (now, now_ms) = (self.now(), self.now_ms());
        let (before_revision, revision) = self
            .transact(|tx| {
                let found = self.get_invite(tx, caller, id)?;
                version.said(found.revision)?;
                if self.repeated(tx, &found.value.node, request, id, now)? {
                    return Ok(found.revision);
                }
                version.check(found.revision)?;
                let before = found.value;
                if before.state == InviteState::Revoked {
                    return Err(Reason::InviteRevoked.into());
                }
                if let Some(limits) = &change.limits {
                    let node = tx.get::<NodeRecord>(&key::node(&before.node))?;
                    self.check_limits(&node.ok_or(Reason::NodeUnknown)?.value, limits)?;
                }
                let after = apply(before.clone(), change, expires_at, now);
                if after == before {
                    return Ok(found.revision);
                }
                put_invite(tx, Some(&before), &after, now)?;
                let kind = match (before.state, after.state) {
                    (InviteState::Active, InviteState::Paused) => kind::INVITE_PAUSED,
                    (InviteState::Paused, InviteState::Active) => kind::INVITE_RESUMED,
                    _ => kind::INVITE_CHANGED,
                };
                let mut detail = serde_json::to_value(change).unwrap_or_default();
                if after.epoch != before.epoch {
                    detail["epoch"] = after.epoch.into();
                }
                let event = caller.author.event(kind).node(&after.node).invite(id);
                audit::record(tx, event.detail(detail), now_ms)?;
                Ok(found.revision)
            })
            .await?;
        tracing::debug!(invite_id = id, before_revision, revision, "invite changed");
        self.invite(caller, id)
    }

    /// Revokes an invite: final, and what lives under it is cut. Its record is kept for a month.
    /// Revoking it again changes nothing.
    ///
    /// # Errors
    /// `not_found`; a stale or missing version; `conflict`.
    pub async fn revoke_invite(
        &self,
        caller: &Caller,
        id: &str,
        version: IfMatch,
        request: Option<Idempotency<'_>>,
    ) -> Result<Invite, Failure> {
        Self::checked_key(request)?;
        let (now, now_ms) = (self.now(), self.now_ms());
        self.transact(|tx| {
            let found = self.get_invite(tx, caller, id)?;
            version.said(found.revision)?;
            if self.repeated(tx, &found.value.node, request, id, now)? {
                return Ok(());
            }
            version.check(found.revision)?;
            let mut record = found.value;
            if record.state == InviteState::Revoked {
                return Ok(());
            }
            record.state = InviteState::Revoked;
            record.revoked_at = Some(now);
            record.epoch += 1;
            if let Some(at) = record.expires_at {
                tx.delete(key::expiry(at, id));
            }
            tx.put(key::invite(id), &record)?;
            invite_over::over(tx, &record, now)?;
            let change = crate::records::Change::Invite(id.to_owned());
            crate::push::touch(tx, &record.node, &change)?;
            let event = caller
                .author
                .event(kind::INVITE_REVOKED)
                .node(&record.node)
                .invite(id);
            Ok(audit::record(tx, event, now_ms)?)
        })
        .await?;
        self.invite(caller, id)
    }

    /// Gives the invite a new code; the old one is unknown from now on, and what lives under it is
    /// cut.
    ///
    /// # Errors
    /// `not_found`; a stale or missing version; `invite_revoked`, which is final.
    pub async fn rotate_invite(
        &self,
        caller: &Caller,
        id: &str,
        version: IfMatch,
        request: Option<Idempotency<'_>>,
    ) -> Result<Invite, Failure> {
        Self::checked_key(request)?;
        let (now, now_ms) = (self.now(), self.now_ms());
        let ((record, code), revision) = self
            .transact(|tx| {
                let found = self.get_invite(tx, caller, id)?;
                let before = found.value;
                let (mut record, node) = (before.clone(), before.node.clone());
                version.said(found.revision)?;
                if let Some(request) = request
                    && let Seen::Before(seen) = self.seen(tx, &node, request, now)?
                {
                    return self.answer_again(tx, &node, request.key, &seen);
                }
                version.check(found.revision)?;
                if record.state == InviteState::Revoked {
                    return Err(Reason::InviteRevoked.into());
                }
                let (code, hash, index) = self.free_code(tx, &node, request)?;
                // The old code's entry stays, though it opens nothing: a code that is derived from
                // the same request again must not get it back.
                tx.put(key::code(&hash), &record.id)?;
                record.code = hash;
                record.epoch += 1;
                put_invite(tx, Some(&before), &record, now)?;
                if let Some(request) = request {
                    self.remember(tx, &node, request, (id, index), now)?;
                }
                let detail = serde_json::json!({ "epoch": record.epoch });
                let event = caller
                    .author
                    .event(kind::INVITE_ROTATED)
                    .node(&node)
                    .invite(id);
                audit::record(tx, event.detail(detail), now_ms)?;
                Ok((record, code))
            })
            .await?;
        let version = if revision == 0 {
            self.invite_record(caller, id)?.revision
        } else {
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

    /// An invite within the caller's reach, as a precondition.
    fn get_invite(
        &self,
        tx: &mut Tx<'_>,
        caller: &Caller,
        id: &str,
    ) -> Result<Record<InviteRecord>, Failure> {
        let found = tx.get::<InviteRecord>(&key::invite(super::checked_id(id)?))?;
        Ok(found
            .filter(|record| caller.reaches(&record.value.node))
            .ok_or(Reason::NotFound)?)
    }
}

/// The invite with the change applied. Extending an expired one revives it under a new epoch: what
/// was cut at its expiry stays cut.
fn apply(
    mut record: InviteRecord,
    change: &ChangeInvite,
    expires_at: Option<Option<i64>>,
    now: i64,
) -> InviteRecord {
    let was_expired = record.state_at(now) == InviteState::Expired;
    if let Some(state) = change.state {
        record.state = state;
    }
    if let Some(limits) = &change.limits {
        record.limits = limits.clone();
    }
    if let Some(expires_at) = expires_at {
        record.expires_at = expires_at;
    }
    if let Some(label) = &change.label {
        record.label.clone_from(label);
    }
    if let Some(note) = &change.note {
        record.note.clone_from(note);
    }
    if was_expired && record.state_at(now) != InviteState::Expired {
        record.epoch += 1;
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use totoro_api::limits::Limits;

    fn record(state: InviteState, expires_at: Option<i64>) -> InviteRecord {
        InviteRecord {
            id: "inv-1".to_owned(),
            node: "n-1".to_owned(),
            label: String::new(),
            state,
            epoch: 1,
            limits: Limits::default(),
            code: String::new(),
            created_at: 0,
            expires_at,
            revoked_at: None,
            note: String::new(),
        }
    }

    #[test]
    fn the_epoch_moves_only_when_the_expired_come_back() {
        let change = ChangeInvite::default();
        let pause = ChangeInvite {
            state: Some(InviteState::Paused),
            ..ChangeInvite::default()
        };
        let epoch = |expires: Option<i64>, change: &ChangeInvite, to: Option<Option<i64>>| {
            apply(record(InviteState::Active, expires), change, to, 100).epoch
        };
        assert_eq!(
            epoch(Some(50), &change, Some(Some(200))),
            2,
            "extended after expiry"
        );
        assert_eq!(epoch(Some(50), &change, Some(None)), 2);
        assert_eq!(
            epoch(Some(150), &change, Some(Some(200))),
            1,
            "extended in time"
        );
        assert_eq!(
            epoch(None, &change, Some(Some(50))),
            1,
            "shortening cuts by the time itself"
        );
        assert_eq!(epoch(None, &pause, None), 1);
    }

    #[test]
    fn versions() {
        assert!(IfMatch::Any.check(3).is_ok() && IfMatch::Version(3).check(3).is_ok());
        assert!(matches!(
            IfMatch::Version(2).check(3),
            Err(Failure::Stale { current: 3 })
        ));
        assert!(matches!(
            IfMatch::Absent.check(3),
            Err(Failure::Unconditional { .. })
        ));
    }
}
