//! Many invites in one request: all of them or none, and the node is told once.

use std::sync::Arc;

use totoro_api::Reason;
use totoro_api::code::InviteCode;
use totoro_api::wire::invite::{Invite, InvitePage, MAX_COUNT, NewInvite};

use super::crowd::Room;
use super::idempotency::{Idempotency, MAX_INDEX, Seen};
use super::invite::{Asked, check_texts, first_record, put_new, view};
use super::transact::to_its_end;
use super::{App, Caller, Failure, fields};
use crate::keys::random;
use crate::push;
use crate::records::{Change, InviteRecord, NodeRecord, key};
use crate::store::{Record, Tx};

/// How many runs of codes of one key are tried: one more is needed each time the same key is used
/// again after its record was forgotten.
const MAX_RUNS: u32 = 100;

/// A code, its keyed hash, and nothing that has it yet.
type Free = (InviteCode, String);

impl App {
    /// Makes `count` invites that are alike but for `{n}` in their label. Their codes are in this
    /// answer only. One commit has them all.
    ///
    /// # Errors
    /// Malformed fields; `unsupported` when the node cannot enforce a limit; `max_invites` when it has
    /// as many as it may have; `conflict`.
    pub async fn create_invites(
        self: &Arc<Self>,
        caller: &Caller,
        new: &NewInvite,
        count: u32,
        request: Option<Idempotency<'_>>,
    ) -> Result<InvitePage, Failure> {
        let asked = Asked::of(self, caller, new, request);
        to_its_end(async move {
            let (app, caller, new, request) = asked.lend();
            app.make_invites(caller, new, count, request).await
        })
        .await
    }

    async fn make_invites(
        &self,
        caller: &Caller,
        new: &NewInvite,
        count: u32,
        request: Option<Idempotency<'_>>,
    ) -> Result<InvitePage, Failure> {
        Self::checked_key(request)?;
        if !(1..=MAX_COUNT).contains(&count) {
            return Err(Failure::malformed(format!("count: 1 to {MAX_COUNT}")));
        }
        let node = self.node_named(caller.node(new.node.as_deref())?)?.value;
        check_texts(&numbered(&new.label, count), &new.note)?;
        let expires_at = fields::when("expires_at", new.expires_at.as_deref().unwrap_or(""))?;
        let (now, now_ms) = (self.now(), self.now_ms());
        let mut room = None;
        let (made, revision) = self
            .transact(|tx| {
                if let Some(request) = request
                    && let Seen::Before(before) = self.seen(tx, &node.id, request, now)?
                {
                    return self.batch_again(tx, (&node.id, request.key), before.index, count);
                }
                // Not sooner: a repeat is answered whatever the time is by then.
                fields::to_come("expires_at", expires_at, now)?;
                // Read again: a limit must fit the pool as it is when the invites are made.
                let found = tx.get::<NodeRecord>(&key::node(&node.id))?;
                let node = found.ok_or(Reason::NodeUnknown)?.value;
                self.check_limits(&node, &new.limits)?;
                // Kept for when others were first.
                if room.is_none() {
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    room = Some(self.room_for(&node.id, count)?);
                }
                let (first, codes) = self.free_codes(tx, &node.id, request, count)?;
                let mut made = Vec::with_capacity(codes.len());
                for (number, (code, hash)) in (1..).zip(codes) {
                    let record = InviteRecord {
                        label: numbered(&new.label, number),
                        ..first_record(new, &node.id, hash, now, expires_at)
                    };
                    put_new(tx, caller, &record, now_ms)?;
                    made.push((
                        code,
                        Record {
                            revision: 0,
                            value: record,
                        },
                    ));
                }
                tell(tx, &node.id, &made)?;
                if let Some(request) = request {
                    self.remember(tx, &node.id, request, (&count.to_string(), first), now)?;
                }
                Ok(made)
            })
            .await?;
        if revision != 0 {
            room.into_iter().for_each(Room::filled);
        }
        let shown = |(code, mut record): (InviteCode, Record<InviteRecord>)| -> Invite {
            // Nothing was committed when the request was a repeat: each has its own version then.
            if record.revision == 0 {
                record.revision = revision;
            }
            view(record, now, Some(&code))
        };
        Ok(InvitePage {
            items: made.into_iter().map(shown).collect(),
            next: None,
        })
    }

    /// The invites of a request that is repeated: their codes are derived again, and lead to them.
    fn batch_again(
        &self,
        tx: &Tx<'_>,
        (node, request_key): (&str, &str),
        first: u32,
        count: u32,
    ) -> Result<Vec<(InviteCode, Record<InviteRecord>)>, Failure> {
        let again = |index| {
            let code = self.derived_code(node, request_key, index);
            let id = tx.peek::<String>(&key::code(&self.code_hash(&code)))?;
            let id = id.ok_or(Reason::NotFound)?.value;
            let record = tx.peek::<InviteRecord>(&key::invite(&id))?;
            Ok((code, record.ok_or(Reason::NotFound)?))
        };
        (first..first + count).map(again).collect()
    }

    /// So many codes that no invite has, and the index of the first: derived where the request has
    /// a key, random where it has none.
    fn free_codes(
        &self,
        tx: &mut Tx<'_>,
        node: &str,
        request: Option<Idempotency<'_>>,
        count: u32,
    ) -> Result<(u32, Vec<Free>), Failure> {
        // Indices of single invites end where those of batches begin.
        for run in 0..MAX_RUNS {
            let first = MAX_INDEX + run * MAX_COUNT;
            let code = |index| match request {
                Some(request) => self.derived_code(node, request.key, index),
                None => InviteCode::from_entropy(random()),
            };
            let mut free = Vec::new();
            for index in first..first + count {
                let code = code(index);
                let hash = self.code_hash(&code);
                if tx.get::<String>(&key::code(&hash))?.is_some() {
                    break;
                }
                free.push((code, hash));
            }
            if free.len() == usize::try_from(count).unwrap_or(usize::MAX) {
                return Ok((first, free));
            }
        }
        Err(Failure::refused(
            Reason::Conflict,
            "this Idempotency-Key was used too often",
        ))
    }
}

/// Tells the node of all of them: one revision.
fn tell(
    tx: &mut Tx<'_>,
    node: &str,
    made: &[(InviteCode, Record<InviteRecord>)],
) -> Result<(), Failure> {
    for some in made.chunks(Change::MAX_INVITES) {
        let ids = some.iter().map(|(_, record)| record.value.id.clone());
        push::touch(tx, node, &Change::Invites(ids.collect()))?;
    }
    Ok(())
}

/// The label of one of many.
fn numbered(label: &str, number: u32) -> String {
    label.replace("{n}", &number.to_string())
}
