//! A node's events: each lands in the trail exactly once, in order. The spool's position moves in
//! the same commit as its events, so a repeat finds them there and a crash loses both or none.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use serde_json::{Value, json};
use totoro_api::Reason;
use totoro_api::wire::event::{EventBatch, EventsAccepted, NodeEvent, Subject, kind};

use super::{App, Caller, Failure, checked_id};
use crate::audit;
use crate::records::{InviteRecord, SpoolRecord, key};
use crate::store::{StoreError, Tx, read, records};

/// Events in one batch at most.
const MAX_BATCH: usize = 500;
/// Spools of one node that are remembered: it has one, and another after each reinstallation.
const MAX_SPOOLS: usize = 16;

impl App {
    /// Adds the batch's events that the trail does not have yet.
    ///
    /// # Errors
    /// `conflict`, naming the expected seq, when events before these are missing, or were taken once
    /// and are here no more; malformed ones.
    pub async fn accept_events(
        &self,
        caller: &Caller,
        batch: &EventBatch,
    ) -> Result<EventsAccepted, Failure> {
        let node = caller.node(None)?;
        let spool = &batch.spool;
        if spool.len() != 32 || !spool.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Failure::malformed(
                "spool: 128 random bits in 32 hex digits",
            ));
        }
        if batch.events.len() > MAX_BATCH {
            return Err(Failure::malformed(format!(
                "events: at most {MAX_BATCH} in one batch"
            )));
        }
        let at = key::spool(node, spool);
        let now_ms = self.now_ms();
        let (seq, _) = self
            .transact(|tx| {
                let known = tx.get::<SpoolRecord>(&at)?;
                let stands = known
                    .as_ref()
                    .map_or_else(SpoolRecord::default, |of| of.value);
                let (fresh, missing_to) = fresh(batch, &stands)?;
                let Some(last) = fresh.last().map(|event| event.seq) else {
                    return Ok(stands.seq);
                };
                let mut owners = Owners {
                    node,
                    known: HashMap::new(),
                };
                for event in fresh {
                    let subject = owners.own(tx, &event.subject)?;
                    let place = audit::Spooled {
                        spool,
                        seq: event.seq,
                        boot: &event.boot,
                        at_ms: event.at_ms,
                    };
                    audit::record_spooled(tx, &caller.author, node, place, &subject, now_ms)?;
                }
                if known.is_none() {
                    self.forget_spools(tx, node)?;
                }
                let stands = SpoolRecord {
                    seq: last,
                    missing_to,
                };
                tx.put(&at, &stands)?;
                Ok(last)
            })
            .await?;
        Ok(EventsAccepted { seq })
    }

    /// Makes room for one more spool of this node: those that were silent for longest go.
    fn forget_spools(&self, tx: &mut Tx<'_>, node: &str) -> Result<(), StoreError> {
        let of_node = key::spools_of(node);
        let mut known = records::<SpoolRecord>(&*self.store, &of_node)?;
        known.sort_by_key(|(_, record)| Reverse(record.revision));
        for (spool, _) in known.into_iter().skip(MAX_SPOOLS - 1) {
            tx.delete(format!("{of_node}{spool}"));
        }
        Ok(())
    }

    /// How far a spool has arrived.
    ///
    /// # Errors
    /// When the store fails.
    pub fn spool_position(&self, node: &str, spool: &str) -> Result<u64, Failure> {
        let record = read::<SpoolRecord>(&*self.store, &key::spool(node, checked_id(spool)?))?;
        Ok(record.map_or(0, |record| record.value.seq))
    }
}

/// The events after those that stand, when they go on from there without a gap that nothing tells
/// of; and up to where some may be missing, because an event has told that they are. Those that the
/// node has forgotten are not among them: a store that was restored may know of a gap, but not have
/// what had come out of it since.
fn fresh<'a>(
    batch: &'a EventBatch,
    stands: &SpoolRecord,
) -> Result<(&'a [NodeEvent], u64), Failure> {
    let events = &batch.events;
    if batch.after > stands.seq {
        return Err(missing(stands.seq.saturating_add(1), batch.after));
    }
    for pair in events.windows(2) {
        if pair[1].seq <= pair[0].seq {
            return Err(Failure::malformed("events: seq must rise"));
        }
    }
    let fresh = &events[events.partition_point(|event| event.seq <= stands.seq)..];
    let mut expected = stands.seq + 1;
    let mut missing_to = stands.missing_to;
    for event in fresh {
        let told = missing_to.checked_add(1).is_some_and(|to| event.seq <= to);
        if event.seq != expected && !told && !closes_gap(event, expected) {
            return Err(missing(expected, event.seq));
        }
        expected = event.seq.checked_add(1).ok_or(Reason::RequestMalformed)?;
        missing_to = missing_to.max(lost_to(event));
    }
    Ok((fresh, missing_to))
}

fn missing(expected: u64, got: u64) -> Failure {
    let what = format!("events are missing: expected seq {expected}, got {got}");
    Failure::refused(Reason::Conflict, what)
}

/// Up to where events are missing, as this one tells.
fn lost_to(event: &NodeEvent) -> u64 {
    let to = event.subject.detail.get("to").and_then(Value::as_u64);
    to.filter(|_| event.subject.kind == kind::AUDIT_LOST)
        .unwrap_or(0)
}

/// Whether the event says that a full spool lost all from `expected` up to itself.
fn closes_gap(event: &NodeEvent, expected: u64) -> bool {
    let number = |field: &str| event.subject.detail.get(field).and_then(Value::as_u64);
    event.subject.kind == kind::AUDIT_LOST
        && event.seq > expected
        && number("from").is_some_and(|from| from <= expected)
        && number("to").is_some_and(|to| event.seq <= to.saturating_add(1))
}

/// Whether only the control plane tells of this. Bans are not among them: a node may ban, too.
fn is_ours(kind: &str) -> bool {
    let nodes = [
        kind::SESSION_KICKED,
        kind::NODE_CHANGED,
        kind::NODE_REACHED,
        kind::NODE_DEGRADED,
        kind::NODE_KEY_ROTATED,
        kind::NODE_ENROLLED,
        kind::NODE_ONLINE,
        kind::NODE_OFFLINE,
        kind::NODE_DRAINED,
        kind::NODE_CONFLICT,
        kind::AUDIT_DROPPED,
        kind::AUDIT_UNREADABLE,
        kind::AUDIT_FOREIGN,
    ];
    let ours = ["admin.", "invite.", "ticket."];
    nodes.contains(&kind) || ours.iter().any(|ours| kind.starts_with(ours))
}

/// Which invites are the node's: a node can tell nothing about another's.
struct Owners<'a> {
    node: &'a str,
    /// Whether an invite is the node's; `None` where nobody has it.
    known: HashMap<String, Option<bool>>,
}

impl Owners<'_> {
    /// What is kept of what a node tells.
    fn own<'a>(&mut self, tx: &Tx<'_>, told: &'a Subject) -> Result<Cow<'a, Subject>, Failure> {
        let mut subject = Cow::Borrowed(told);
        if is_ours(&told.kind) {
            // Refusing the event would hold up the spool behind it for ever.
            let subject = subject.to_mut();
            subject.detail = json!({ "kind": told.kind, "detail": told.detail });
            subject.kind = kind::AUDIT_FOREIGN.to_owned();
        }
        let Some(invite) = &told.invite else {
            return Ok(subject);
        };
        let note = match self.owner(tx, invite)? {
            Some(true) => return Ok(subject),
            Some(false) => ("foreign_invite", json!(true)),
            // None of anybody's: forgotten, where the event is old enough.
            None => ("unknown_invite", json!(invite)),
        };
        let kept = subject.to_mut();
        kept.invite = None;
        kept.detail = json!({ note.0: note.1, "detail": kept.detail });
        Ok(subject)
    }

    /// Whether an invite is the node's; `None` where nobody has it.
    fn owner(&mut self, tx: &Tx<'_>, invite: &str) -> Result<Option<bool>, Failure> {
        if let Some(&owner) = self.known.get(invite) {
            return Ok(owner);
        }
        let owner = match checked_id(invite) {
            Ok(id) => tx
                .peek::<InviteRecord>(&key::invite(id))?
                .map(|record| record.value.node == self.node),
            Err(_) => Some(false),
        };
        self.known.insert(invite.to_owned(), owner);
        Ok(owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64) -> NodeEvent {
        let subject = Subject {
            kind: "session.opened".to_owned(),
            ..Subject::default()
        };
        NodeEvent {
            seq,
            at_ms: 0,
            boot: String::new(),
            subject,
        }
    }

    fn lost(seq: u64, from: u64, to: u64) -> NodeEvent {
        let mut event = event(seq);
        event.subject.kind = kind::AUDIT_LOST.to_owned();
        event.subject.detail = json!({ "from": from, "to": to });
        event
    }

    fn batch(after: u64, events: &[NodeEvent]) -> EventBatch {
        EventBatch {
            spool: String::new(),
            after,
            events: events.to_vec(),
        }
    }

    fn seqs(events: &[NodeEvent], seq: u64) -> Result<Vec<u64>, Reason> {
        let stands = SpoolRecord { seq, missing_to: 0 };
        fresh(&batch(0, events), &stands)
            .map(|(events, _)| events.iter().map(|event| event.seq).collect())
            .map_err(|failure| failure.refusal().expect("a refusal").reason)
    }

    #[test]
    fn once_in_order_without_gaps() {
        let three = [event(4), event(5), event(6)];
        assert_eq!(seqs(&three, 3), Ok(vec![4, 5, 6]));
        assert_eq!(
            seqs(&three, 5),
            Ok(vec![6]),
            "what is there is not taken again"
        );
        assert_eq!(seqs(&three, 9), Ok(vec![]));
        assert_eq!(seqs(&three, 2), Err(Reason::Conflict));
        assert_eq!(seqs(&[event(1), event(3)], 0), Err(Reason::Conflict));
        assert_eq!(
            seqs(&[event(2), event(1)], 0),
            Err(Reason::RequestMalformed)
        );
        assert_eq!(
            seqs(&[event(u64::MAX)], u64::MAX - 1),
            Err(Reason::RequestMalformed)
        );
    }

    #[test]
    fn a_full_spools_gap_is_closed_by_saying_so() {
        assert_eq!(
            seqs(&[event(1), lost(9, 2, 8), event(10)], 0),
            Ok(vec![1, 9, 10])
        );
        assert_eq!(seqs(&[lost(8, 2, 8)], 1), Ok(vec![8]));
        assert_eq!(
            seqs(&[lost(9, 3, 8)], 1),
            Err(Reason::Conflict),
            "2 is not accounted for"
        );
        assert_eq!(
            seqs(&[lost(12, 2, 8)], 1),
            Err(Reason::Conflict),
            "9 to 11 neither"
        );
    }

    #[test]
    fn what_a_full_spool_kept_follows_what_tells_of_the_rest() {
        let kept = [event(1), lost(2, 2, 8), event(5), event(7)];
        assert_eq!(seqs(&kept, 0), Ok(vec![1, 2, 5, 7]));
        // And in the next batch.
        let stands = SpoolRecord {
            seq: 7,
            missing_to: 8,
        };
        let next = [event(9), event(10)];
        assert_eq!(fresh(&batch(7, &next), &stands).unwrap().0.len(), 2);
        let too_far = [event(10)];
        assert!(
            fresh(&batch(7, &too_far), &stands).is_err(),
            "9 is not accounted for"
        );
        assert_eq!(seqs(&[lost(2, 2, 8), event(10)], 1), Err(Reason::Conflict));
    }

    #[test]
    fn a_restored_store_misses_what_the_node_has_forgotten() {
        // Up to 8 there may be holes, and it stands at 3: 5 and 7 were taken after the backup.
        let stands = SpoolRecord {
            seq: 3,
            missing_to: 8,
        };
        let next = [event(8), event(9)];
        for after in 4..8 {
            let refused = fresh(&batch(after, &next), &stands).unwrap_err();
            assert_eq!(refused.refusal().map(|r| r.reason), Some(Reason::Conflict));
        }
        // The holes themselves are no reason, nor an answer that the node has not heard.
        for after in 0..4 {
            assert_eq!(fresh(&batch(after, &next), &stands).unwrap().0.len(), 2);
        }
    }
}
