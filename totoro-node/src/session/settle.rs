//! Making a login hold.

use std::sync::Arc;

use totoro_api::decide::{Granted, Standing};
use totoro_api::wire::event::{Subject, kind};
use totoro_api::wire::plugin::Login;
use totoro_api::{Reason, Refusal};

use super::commits::{Undo, UndoneLogin};
use super::desk::{Desk, Inner, kernel_failed};
use super::login::Credential;
use super::model::{Session, Tenant, Ticket};
use super::ports::record_key;
use crate::kernel::ControlSocket;
use crate::secret::random_hex;
use crate::store::{Changes, HELD, SESSIONS, TENANTS, TICKETS};

/// A login that was decided about.
pub(super) struct Settling<'a> {
    pub(super) body: &'a Login,
    pub(super) socket: ControlSocket,
    pub(super) credential: &'a Credential,
    pub(super) tenant: &'a Arc<str>,
    pub(super) standing: &'a Standing,
    /// The session's, whether it is known or new.
    pub(super) run_id: String,
    /// From when the session's longest life counts.
    pub(super) begun_ms: i64,
    pub(super) now_ms: i64,
}

impl Desk {
    /// Makes the session hold: the kernel knows the tenant, an old connection is gone. It is not
    /// durable yet.
    pub(super) fn settle(
        &self,
        inner: &mut Inner,
        settling: Settling<'_>,
    ) -> Result<Granted, Refusal> {
        let Settling {
            body,
            socket,
            credential,
            tenant,
            standing,
            run_id,
            begun_ms,
            now_ms,
        } = settling;
        let mut changes = Changes::default();
        let old = inner.sessions.get(&run_id).cloned();
        if let Some(old) = old.as_ref().filter(|old| old.connected()) {
            if old.cookie != socket.cookie {
                self.kernel
                    .destroy_control(&old.control())
                    .map_err(|e| kernel_failed(&e))?;
            }
            // frps closes the replaced connection's proxies; the new one asks for them again.
            self.release_lost(inner, std::slice::from_ref(&run_id), &mut changes, now_ms);
            self.flush(inner, std::mem::take(&mut changes));
        }
        // One that is known is remembered while it has a session, and from the end of its last one.
        let known = inner.tenants.get(tenant).map(|tenant| tenant.number);
        let number = known.unwrap_or_else(|| self.number_tenant(inner, tenant, now_ms));
        if let Err(error) = self.show_tenant(inner, tenant, number, standing) {
            // Whatever its connection was, it has ended.
            if old.as_ref().is_some_and(Session::connected) {
                self.lose(inner, std::slice::from_ref(&run_id), &mut changes, now_ms);
                self.flush(inner, changes);
            }
            return Err(kernel_failed(&error));
        }
        // An anonymous tenant that a session leaves is remembered from now on.
        if let Some(old) = old.as_ref().filter(|old| old.tenant != *tenant)
            && let Some(record) = inner.tenants.get_mut(&old.tenant)
        {
            record.seen_ms = now_ms;
            changes.put(TENANTS, &old.tenant, record);
        }
        inner.cuts.remove(&number);
        let end = standing.session_end(begun_ms / 1000);
        inner.ends.set(run_id.as_str(), end);

        let nonce = random_hex();
        let session = Session {
            id: old
                .as_ref()
                .map_or_else(|| format!("ses_{}", &random_hex()[..16]), |s| s.id.clone()),
            tenant: Arc::clone(tenant),
            voucher: credential.voucher.clone(),
            nonce: nonce.clone(),
            user: body.user.clone(),
            client: socket.client,
            local: socket.local,
            cookie: socket.cookie,
            opened_ms: old.as_ref().map_or(now_ms, |s| s.opened_ms),
            begun_ms,
            lost_ms: None,
            frpc_version: body.version.clone(),
            bytes_in: inner.sessions.get(&run_id).map_or(0, |s| s.bytes_in),
            bytes_out: inner.sessions.get(&run_id).map_or(0, |s| s.bytes_out),
            conns: inner.sessions.get(&run_id).map_or(0, |s| s.conns),
        };
        let ticket = match (&credential.fresh, inner.tickets.get(&credential.hash)) {
            (Some((claims, _)), _) => Ticket {
                jti: claims.jti.clone(),
                run_id: run_id.clone(),
                tenant: Arc::clone(tenant),
                voucher: credential.voucher.clone(),
                exp: claims.exp,
                client: socket.client.ip(),
                ended: false,
            },
            (None, Some(ticket)) => Ticket {
                tenant: Arc::clone(tenant),
                client: socket.client.ip(),
                ..ticket.clone()
            },
            (None, None) => return Err(Reason::TicketExpired.into()),
        };
        changes.put(SESSIONS, run_id.as_str(), &session);
        changes.put(TICKETS, credential.hash.as_str(), &ticket);
        // An anonymous tenant moves with its session, and its ports with it.
        let moved = inner.ports.moved(&run_id, tenant);
        for (port, waiting) in &moved {
            changes.put(HELD, record_key(*port), waiting);
        }
        let event = if old.is_some() {
            kind::SESSION_RESUMED
        } else {
            kind::SESSION_OPENED
        };
        tracing::info!(
            node_id = self.rules.node,
            invite_id = &**tenant,
            session = session.id,
            client = %session.client,
            "{}",
            if old.is_some() { "session resumed" } else { "session opened" }
        );
        changes.tell(now_ms, &session_event(event, &session));
        let undo = UndoneLogin {
            run_id: run_id.clone(),
            nonce: nonce.clone(),
            // What is taken back has no connection any more.
            session: inner
                .sessions
                .insert(run_id.clone(), session)
                .map(|old| Session {
                    lost_ms: old.lost_ms.or(Some(now_ms)),
                    ..old
                }),
            hash: credential.hash.clone(),
            ticket: inner.tickets.insert(credential.hash.clone(), ticket),
            moved: moved
                .into_iter()
                .filter_map(|(port, waiting)| Some((port, inner.ports.wait(port, waiting)?)))
                .collect(),
        };
        self.grant(inner, changes, Undo::Login(Box::new(undo)));
        Ok(Granted { run_id, nonce })
    }

    /// Gives a tenant its number. It keeps it whatever becomes of its login: the kernel may know it.
    fn number_tenant(&self, inner: &mut Inner, tenant: &Arc<str>, now_ms: i64) -> u32 {
        let number = inner.numbers.tenant;
        inner.numbers.tenant += 1;
        let record = Tenant {
            number,
            seen_ms: now_ms,
            ..Tenant::default()
        };
        let mut changes = Changes::default();
        changes.put(TENANTS, &**tenant, &record);
        Desk::put_numbers(&mut changes, inner.numbers);
        inner.tenants.insert(Arc::clone(tenant), record);
        self.flush(inner, changes);
        number
    }
}

fn session_event(kind: &str, session: &Session) -> Subject {
    Subject {
        kind: kind.to_owned(),
        invite: session.invite().map(str::to_owned),
        session: Some(session.id.clone()),
        client: Some(session.client.to_string()),
        detail: serde_json::json!({
            "frpc_version": session.frpc_version,
            "tenant": session.tenant,
        }),
        ..Subject::default()
    }
}
