//! How leases and sessions end.

use std::collections::HashSet;

use serde::Serialize;
use totoro_api::Reason;
use totoro_api::decide::LeaseTold;
use totoro_api::ports::Protocol;
use totoro_api::wire::event::{Subject, kind};

use super::desk::{Desk, Inner};
use super::hints::summary;
use super::model::Session;
use super::ports::{PortId, port_key, record_key};
use crate::kernel::{Control, KernelError, LeaseCounts};
use crate::store::{Changes, HELD, LEASES, SESSIONS, TENANTS, TICKETS};

/// What is told of a lease that ended.
#[derive(Serialize)]
struct Closed<'a> {
    bytes_in: u64,
    bytes_out: u64,
    duration_s: i64,
    #[serde(rename = "type")]
    protocol: Protocol,
    why: &'a str,
}

impl Desk {
    /// Marks the sessions (all, or a tenant's) whose connection is gone, and gives their ports up;
    /// how many they are.
    pub(super) fn find_lost(
        &self,
        inner: &mut Inner,
        tenant: Option<&str>,
        changes: &mut Changes,
        now_ms: i64,
    ) -> usize {
        let suspects = match tenant {
            Some(tenant) => {
                let sessions = inner.sessions.of_owner(tenant);
                sessions.map(|(run_id, _)| run_id.to_string()).collect()
            }
            None => match self.kernel.controls() {
                Ok(controls) => without(inner, &controls),
                Err(error) => {
                    cant_list(&error);
                    Vec::new()
                }
            },
        };
        self.lose_gone(inner, suspects, changes, now_ms)
    }

    /// The same of these sessions, where their connection is gone indeed.
    pub(super) fn lose_gone(
        &self,
        inner: &mut Inner,
        suspects: Vec<String>,
        changes: &mut Changes,
        now_ms: i64,
    ) -> usize {
        let is_gone = |session: &Session| match self.kernel.control_socket(session.client) {
            Ok(socket) => socket.is_none_or(|socket| socket.cookie != session.cookie),
            Err(error) => {
                tracing::error!(
                    error = error.whole(),
                    "a connection can't be looked up; its session stays"
                );
                false
            }
        };
        let mut lost = suspects;
        lost.retain(|run_id| {
            let session = inner.sessions.get(run_id);
            session.is_some_and(|session| session.connected() && is_gone(session))
        });
        self.hang_up(inner, &lost, changes, now_ms);
        lost.len()
    }

    /// The connections of these sessions are said to be gone, and are gone then.
    pub(super) fn hang_up(
        &self,
        inner: &mut Inner,
        run_ids: &[String],
        changes: &mut Changes,
        now_ms: i64,
    ) {
        for run_id in run_ids {
            self.disconnect(inner, run_id);
        }
        self.lose(inner, run_ids, changes, now_ms);
    }

    /// Ends a connection to frps; whether it was there. `None` = it can't be ended, which is told.
    pub(super) fn destroy(&self, control: &Control) -> Option<bool> {
        let destroyed = self.kernel.destroy_control(&control.socket);
        destroyed
            .inspect_err(|error| {
                let client = control.socket.client;
                tracing::error!(error = error.whole(), %client, "a connection can't be destroyed");
            })
            .ok()
    }

    /// Ends frpc's connection, by its socket's cookie. Where it is said to have ended and has not,
    /// this makes it true: frpc would hold ports that are nobody's, and never log in again.
    pub(super) fn disconnect(&self, inner: &Inner, run_id: &str) {
        let Some(session) = inner.sessions.get(run_id).filter(|s| s.connected()) else {
            return;
        };
        match self.kernel.destroy_control(&session.control()) {
            Ok(true) => tracing::info!(
                node_id = self.rules.node,
                invite_id = &*session.tenant,
                session = session.id,
                "frpc's connection was ended"
            ),
            Ok(false) => {}
            // Swept once no session is on it.
            Err(error) => tracing::error!(
                node_id = self.rules.node,
                invite_id = &*session.tenant,
                session = session.id,
                error = error.whole(),
                "frpc's connection can't be ended"
            ),
        }
    }

    /// The connections of these sessions are gone: their ports wait for them; the sessions live on for a while.
    pub(super) fn lose(
        &self,
        inner: &mut Inner,
        run_ids: &[String],
        changes: &mut Changes,
        now_ms: i64,
    ) {
        self.release_lost(inner, run_ids, changes, now_ms);
        for run_id in run_ids {
            if let Some(session) = inner.sessions.lose(run_id, now_ms) {
                changes.put(SESSIONS, run_id, session);
            }
        }
    }

    /// The leases of sessions whose connection is gone end.
    pub(super) fn release_lost(
        &self,
        inner: &mut Inner,
        run_ids: &[String],
        changes: &mut Changes,
        now_ms: i64,
    ) {
        let ports = run_ids.iter();
        let ports: Vec<_> = ports
            .flat_map(|run_id| inner.ports.of_session(run_id))
            .collect();
        self.release(inner, &ports, "connection_lost", changes, now_ms);
    }

    /// Ends leases: in the kernel first, so that nobody new gets in.
    pub(super) fn release(
        &self,
        inner: &mut Inner,
        ports: &[PortId],
        why: &str,
        changes: &mut Changes,
        now_ms: i64,
    ) {
        let ended = self.end_in_kernel(inner, ports);
        for (port, (counts, is_closed)) in ports.iter().zip(ended) {
            self.released(inner, *port, (counts, is_closed), why, changes, now_ms);
        }
    }

    /// A lease has ended in the kernel, where so much was counted on it; whether it is closed for sure.
    fn released(
        &self,
        inner: &mut Inner,
        port: PortId,
        (counts, is_closed): (LeaseCounts, bool),
        why: &str,
        changes: &mut Changes,
        now_ms: i64,
    ) {
        let Some((lease, waiting)) = inner.ports.close(port, now_ms, self.rules.patience) else {
            return;
        };
        inner.late.remove(&port);
        inner.unseen.remove(&port);
        tracing::info!(
            node_id = self.rules.node,
            invite_id = &*lease.tenant,
            proxy_name = lease.name(),
            port = %record_key(port),
            why,
            "proxy closed"
        );
        changes.remove(LEASES, record_key(port));
        changes.put(HELD, record_key(port), &waiting);
        // What nothing was counted on changes no sum.
        let counted = [counts.bytes_in, counts.bytes_out, counts.admitted] != [0; 3];
        if let Some(tenant) = inner.tenants.get_mut(&*lease.tenant) {
            tenant.bytes_in += counts.bytes_in;
            tenant.bytes_out += counts.bytes_out;
            // What did not close is counted still: the next alignment ends it.
            if is_closed {
                inner.spent.ends(port, tenant.number, now_ms);
            }
            if counted {
                changes.put(TENANTS, &*lease.tenant, tenant);
            }
        }
        if counted && let Some(session) = inner.sessions.get_mut(&lease.run_id) {
            session.bytes_in += counts.bytes_in;
            session.bytes_out += counts.bytes_out;
            session.conns += counts.admitted;
            changes.put(SESSIONS, &*lease.run_id, session);
        }
        let session = inner.sessions.get(&lease.run_id);
        let holder = session.map(Session::as_holder);
        let longest_ms = inner.longest_ms.remove(&lease.number).unwrap_or(0);
        let first_ms = inner.summed_ms.max(lease.since_ms);
        // What still lived has ended with the lease.
        let ended = LeaseCounts { live: 0, ..counts };
        if let Some((_, detail)) = summary(&lease, &ended, first_ms, now_ms, longest_ms) {
            let told = LeaseTold::new(kind::CONN_CLOSED, &lease, port, holder, detail);
            changes.tell(now_ms, &told);
        }
        let detail = Closed {
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            duration_s: (now_ms - lease.since_ms).max(0) / 1000,
            protocol: port.0,
            why,
        };
        let told = LeaseTold::new(kind::PROXY_CLOSED, &lease, port, holder, detail);
        changes.tell(now_ms, &told);
    }

    /// Closes leases in the kernel, and reads what was counted on each; whether it is closed for sure.
    fn end_in_kernel(&self, inner: &mut Inner, ports: &[PortId]) -> Vec<(LeaseCounts, bool)> {
        if ports.is_empty() {
            return Vec::new();
        }
        let keys: Vec<_> = ports.iter().map(|port| port_key(*port)).collect();
        let closed = self.kernel.remove_leases(&keys);
        let is_closed = closed.is_ok();
        let counted = closed.unwrap_or_else(|error| {
            let ports: Vec<_> = ports.iter().map(|port| record_key(*port)).collect();
            tracing::error!(
                error = error.whole(),
                ?ports,
                "leases could not be ended cleanly"
            );
            inner.untidy = Some(error.whole());
            vec![None; keys.len()]
        });
        let read = |(port, counted): (&PortId, Option<LeaseCounts>)| {
            (
                counted.unwrap_or_else(|| self.count_of(inner, *port)),
                is_closed,
            )
        };
        ports.iter().zip(counted).map(read).collect()
    }

    /// What is counted on the lease of a port.
    fn count_of(&self, inner: &Inner, port: PortId) -> LeaseCounts {
        let lease = inner.ports.leases().get(&port);
        let tenant = lease.and_then(|lease| inner.tenants.get(&*lease.tenant));
        let counts = tenant.map_or(Ok(LeaseCounts::default()), |tenant| {
            self.kernel.lease_counts(tenant.number, port_key(port))
        });
        counts.unwrap_or_else(|error| {
            tracing::error!(error = error.whole(), port = %record_key(port), "a lease's counts can't be read");
            LeaseCounts::default()
        })
    }

    /// Ends a session: its ports, its record. `reason` where a refusal is behind it.
    pub(super) fn close_session(
        &self,
        inner: &mut Inner,
        run_id: &str,
        why: &str,
        reason: Option<Reason>,
        changes: &mut Changes,
        now_ms: i64,
    ) {
        let ports = inner.ports.of_session(run_id);
        self.release(inner, &ports, why, changes, now_ms);
        let Some(session) = inner.sessions.remove(run_id) else {
            return;
        };
        if let Some(tenant) = inner.tenants.get_mut(&session.tenant) {
            tenant.seen_ms = now_ms;
            changes.put(TENANTS, &*session.tenant, tenant);
        }
        changes.remove(SESSIONS, run_id);
        inner.ends.forget(run_id);
        inner.asks.remove(run_id);
        inner.shown.forget_session(run_id);
        tracing::info!(
            node_id = self.rules.node,
            invite_id = &*session.tenant,
            session = session.id,
            why,
            reason = reason.map(Reason::code),
            "session closed"
        );
        let over_ms = session.lost_ms.unwrap_or(now_ms);
        let subject = Subject {
            kind: kind::SESSION_CLOSED.to_owned(),
            invite: session.invite().map(str::to_owned),
            session: Some(session.id.clone()),
            client: Some(session.client.to_string()),
            reason,
            detail: serde_json::json!({
                "why": why,
                "duration_s": (over_ms - session.opened_ms).max(0) as f64 / 1000.0,
                "bytes_in": session.bytes_in,
                "bytes_out": session.bytes_out,
                "conns": session.conns,
            }),
            ..Subject::default()
        };
        changes.tell(now_ms, &subject);
    }

    /// The tickets of a session open nothing any more.
    pub(super) fn end_tickets(inner: &mut Inner, run_id: &str, changes: &mut Changes) {
        for (hash, ticket) in inner.tickets.iter_mut() {
            if ticket.run_id == run_id && !ticket.ended {
                ticket.ended = true;
                changes.put(TICKETS, &**hash, ticket);
            }
        }
    }
}

/// The sessions on a connection that is not among these.
pub(super) fn without(inner: &Inner, controls: &[Control]) -> Vec<String> {
    let live: HashSet<u64> = controls.iter().map(|one| one.socket.cookie).collect();
    let sessions = inner.sessions.connected();
    sessions
        .filter(|(cookie, _)| !live.contains(cookie))
        .map(|(_, run_id)| run_id.to_owned())
        .collect()
}

/// Connections to frps that carry no session, and were there at this instant.
pub(super) fn sessionless<'a>(
    inner: &Inner,
    controls: &'a [Control],
    at_ns: u64,
) -> Vec<&'a Control> {
    let used = inner.sessions.connected();
    let used: HashSet<u64> = used.map(|(cookie, _)| cookie).collect();
    let is_one =
        |control: &&Control| control.opened_ns <= at_ns && !used.contains(&control.socket.cookie);
    controls.iter().filter(is_one).collect()
}

pub(super) fn cant_list(error: &KernelError) {
    tracing::error!(error = error.whole(), "connections to frps can't be listed");
}
