//! How leases and sessions end.

use serde::Serialize;
use totoro_api::Reason;
use totoro_api::decide::{LeaseTold, PortId, SeenTicket};
use totoro_api::ports::Protocol;
use totoro_api::wire::event::{Subject, kind};

use super::book::{self, Session};
use super::desk::Desk;
use crate::store::StoreError;

/// What else there is to say of a lease that has ended.
#[derive(Serialize)]
struct Closed<'a> {
    why: &'a str,
    #[serde(rename = "type")]
    protocol: Protocol,
    duration_s: i64,
}

impl Desk<'_, '_> {
    /// Gives up all leases of a session; their ports wait for its proxies.
    pub(super) fn give_up_leases(&mut self, run_id: &str, why: &str) -> Result<(), StoreError> {
        for port in self.ports.of_session(run_id) {
            self.release(port, why)?;
        }
        Ok(())
    }

    /// Ends a lease.
    pub(super) fn release(&mut self, port: PortId, why: &str) -> Result<(), StoreError> {
        let Some(lease) = self.close_lease(port)? else {
            return Ok(());
        };
        let session = self.sessions.get(&*lease.run_id).cloned();
        let holder = session.as_ref().map(|session| session.as_holder());
        let detail = Closed {
            why,
            protocol: port.0,
            duration_s: (self.now_ms - lease.since_ms).max(0) / 1000,
        };
        let told = LeaseTold::new(kind::PROXY_CLOSED, &lease, port, holder, detail);
        self.tell_lease(&told)
    }

    /// A session's pings have stopped: its ports wait for it, and it may come back for a while.
    pub(super) fn lose(&mut self, run_id: &str) -> Result<(), StoreError> {
        self.give_up_leases(run_id, "connection_lost")?;
        let Some(session) = self.sessions.get(run_id) else {
            return Ok(());
        };
        let lost = Session {
            lost_ms: Some(self.now_ms),
            ..Session::clone(session)
        };
        self.put_session(run_id, lost)
    }

    /// Ends a session; `reason` where a refusal is behind it. One that was ended for good is not
    /// resumed by its tickets.
    pub(super) fn end_session(
        &mut self,
        run_id: &str,
        why: &str,
        reason: Option<Reason>,
        for_good: bool,
    ) -> Result<(), StoreError> {
        self.give_up_leases(run_id, why)?;
        let Some(session) = self.sessions.remove(run_id) else {
            return Ok(());
        };
        self.tx.delete(book::session(self.node, run_id));
        if session.idle_ms.is_some() {
            self.tx.delete(book::idle(self.node, run_id));
        }
        self.touch();
        if for_good {
            self.end_tickets(run_id)?;
        }
        tracing::info!(
            node_id = self.node,
            invite_id = session.tenant,
            session = session.id,
            why,
            "session closed"
        );
        let over_ms = session.lost_ms.or(session.idle_ms).unwrap_or(self.now_ms);
        self.tell(Subject {
            kind: kind::SESSION_CLOSED.to_owned(),
            invite: session.invite().map(str::to_owned),
            session: Some(session.id.clone()),
            client: Some(session.client.to_string()),
            reason,
            detail: serde_json::json!({
                "why": why,
                "duration_s": (over_ms - session.opened_ms).max(0) / 1000,
            }),
            ..Subject::default()
        })
    }

    /// The tickets of a session open nothing any more.
    fn end_tickets(&mut self, run_id: &str) -> Result<(), StoreError> {
        for hash in self.tx.names(&book::tickets(self.node))? {
            if let Some(ticket) = self.ticket(&hash)?
                && ticket.run_id == run_id
                && !ticket.ended
            {
                let ended = SeenTicket {
                    ended: true,
                    ..ticket
                };
                self.tx.put(book::ticket(self.node, &hash), &ended)?;
            }
        }
        Ok(())
    }
}

/// Why a session ended, in the audit's word.
pub(super) const fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::InviteRevoked => "revoked",
        Reason::InviteExpired => "expired",
        Reason::InviteUnknown => "removed",
        Reason::TicketExpired => "rotated",
        Reason::NodeDisabled => "disabled",
        Reason::ClientBanned => "banned",
        other => other.code(),
    }
}
