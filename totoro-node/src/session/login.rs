//! A frpc logs in.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use totoro_api::decide::{Action, Brought, Owner, Standing, Voucher, login, user_denied};
use totoro_api::ticket::{self, Claims, Grant, SKEW_S};
use totoro_api::wire::event::{Subject, kind};
use totoro_api::wire::plugin::{Answer, Login};
use totoro_api::{Reason, Refusal};

use super::body::{Granted, check_login, rewritten, ticket_of};
use super::desk::{Desk, Inner, kernel_failed};
use super::model::{PUBLIC, Session, Tenant, Ticket, invite_of, site, tenant_of};
use crate::kernel::ControlSocket;
use crate::secret::random_hex;
use crate::store::{Changes, SESSIONS, TENANTS, TICKETS};

/// A refusal, and whom it concerned as far as that was found out.
struct Denied {
    refusal: Refusal,
    grant: Option<Grant>,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied {
            refusal,
            grant: None,
        }
    }
}

impl From<Reason> for Denied {
    fn from(reason: Reason) -> Self {
        Refusal::new(reason).into()
    }
}

/// The credential as it was brought: checked (or recognised), with what it says.
struct Credential {
    hash: String,
    voucher: Voucher,
    /// The claims of one that was never seen.
    fresh: Option<(Claims, bool)>,
}

impl Desk {
    /// Answers a Login. `content` is the body as frps sent it.
    pub fn login(&self, body: &Login, content: Value) -> Answer {
        let client = check_login(body);
        let outcome = match &client {
            Ok(client) => self.try_login(body, *client),
            Err(refusal) => Err(refusal.clone().into()),
        };
        match outcome {
            Ok(granted) => rewritten(content, body, &granted),
            Err(denied) => {
                self.refused_login(&denied, client.ok(), body);
                Answer::refuse(&denied.refusal)
            }
        }
    }

    fn try_login(&self, body: &Login, client: SocketAddr) -> Result<Granted, Denied> {
        let now_ms = self.clock.now_ms();
        let now = now_ms / 1000;
        let socket = self
            .kernel
            .control_socket(client)
            .map_err(|e| kernel_failed(&e))?;
        let Some(socket) = socket else {
            let detail = "frpc must reach this node by plain TCP (not kcp or quic)";
            return Err(Refusal::with(Reason::Unsupported, detail).into());
        };
        let token = ticket_of(body);
        let hash = hex(&ticket::hash(token));
        let (policy, seen) = {
            let inner = self.lock();
            if inner.policy.banned(client.ip(), now) || inner.banned_here(client.ip(), now) {
                return Err(Reason::ClientBanned.into());
            }
            (Arc::clone(&inner.policy), inner.tickets.get(&hash).cloned())
        };
        // Outside the lock: a signature takes a while. A ticket that was seen is recognised by its
        // hash; its key may be gone since.
        let credential = match seen {
            Some(ticket) => Credential {
                hash,
                voucher: ticket.voucher,
                fresh: None,
            },
            None => {
                let verified = ticket::verify(token, &self.rules.node, &policy.keys, now)?;
                Credential {
                    hash,
                    voucher: Voucher::from(&verified.claims),
                    fresh: Some((verified.claims, verified.expired)),
                }
            }
        };
        let grant = credential.voucher.grant.clone();
        self.admit(body, socket, &credential, now_ms)
            .map_err(|refusal| Denied {
                refusal,
                grant: Some(grant),
            })
    }

    /// Decides about a credential that is genuine, and makes the decision hold.
    fn admit(
        &self,
        body: &Login,
        socket: ControlSocket,
        credential: &Credential,
        now_ms: i64,
    ) -> Result<Granted, Refusal> {
        let now = now_ms / 1000;
        let mut inner = self.lock();
        let inner = &mut *inner;
        let policy = Arc::clone(&inner.policy);
        let voucher = &credential.voucher;
        let standing = policy.standing(voucher, now)?;
        if let Some(held) = standing.held {
            return Err(held.into());
        }
        let invite = invite_of(&voucher.grant);
        let is_invite = |name: &str| policy.invites.contains_key(name);
        if let Some(refusal) = user_denied(&body.user, invite.as_deref(), is_invite) {
            return Err(refusal);
        }
        let tenant = tenant_of(&voucher.grant, socket.client.ip());

        // A connection that has just ended must not count as one that lives.
        let mut changes = Changes::default();
        self.find_lost(inner, Some(&tenant), &mut changes, now_ms);
        self.flush(inner, changes);

        let run_id = find_session(inner, body, credential, &tenant, &socket, now)?;
        let begun = match run_id
            .as_ref()
            .and_then(|(id, action)| inner.sessions.get(id).filter(|_| *action != Action::Extend))
        {
            Some(session) => session.begun_ms / 1000,
            None => now,
        };
        if standing.session_end(begun).is_some_and(|end| end <= now) {
            return Err(Reason::SessionExpired.into());
        }
        let known = run_id.as_ref().map(|(run_id, _)| run_id.as_str());
        room(inner, &policy.node.public_max, &tenant, known, &standing)?;
        let extended = run_id
            .as_ref()
            .is_some_and(|(_, action)| *action == Action::Extend);
        let run_id = run_id.map_or_else(random_hex, |(run_id, _)| run_id);
        self.settle(
            inner,
            body,
            socket,
            credential,
            &tenant,
            &standing,
            (run_id, extended),
            now_ms,
        )
    }

    /// Makes the session hold: the kernel knows the tenant, an old connection is gone, everything
    /// is durable.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is one fact about one login"
    )]
    fn settle(
        &self,
        inner: &mut Inner,
        body: &Login,
        socket: ControlSocket,
        credential: &Credential,
        tenant: &str,
        standing: &Standing,
        (run_id, extended): (String, bool),
        now_ms: i64,
    ) -> Result<Granted, Refusal> {
        let mut changes = Changes::default();
        let old = inner.sessions.get(&run_id).cloned();
        if let Some(old) = old.as_ref().filter(|old| old.connected()) {
            if old.cookie != socket.cookie {
                self.kernel
                    .destroy_control(&old.control())
                    .map_err(|e| kernel_failed(&e))?;
            }
            // frps closes the replaced connection's proxies; the new one asks for them again.
            self.lose(inner, &run_id, &mut changes, now_ms);
            self.flush(inner, std::mem::take(&mut changes));
        }
        let number = match inner.tenants.get(tenant) {
            Some(tenant) => tenant.number,
            None => {
                let number = inner.numbers.tenant;
                inner.numbers.tenant += 1;
                let record = Tenant {
                    number,
                    ..Tenant::default()
                };
                inner.tenants.insert(tenant.to_owned(), record);
                number
            }
        };
        if let Some(record) = inner.tenants.get_mut(tenant) {
            record.seen_ms = now_ms;
            changes.put(TENANTS, tenant, record);
        }
        Desk::put_numbers(&mut changes, inner.numbers);
        self.put_tenant(tenant, number, standing)
            .map_err(|e| kernel_failed(&e))?;

        let nonce = random_hex();
        let session = Session {
            id: old
                .as_ref()
                .map_or_else(|| format!("ses_{}", &random_hex()[..16]), |s| s.id.clone()),
            tenant: tenant.to_owned(),
            voucher: credential.voucher.clone(),
            nonce: nonce.clone(),
            user: body.user.clone(),
            client: socket.client,
            local: socket.local,
            cookie: socket.cookie,
            opened_ms: old.as_ref().map_or(now_ms, |s| s.opened_ms),
            begun_ms: old
                .as_ref()
                .filter(|_| !extended)
                .map_or(now_ms, |s| s.begun_ms),
            lost_ms: None,
            frpc_version: body.version.clone(),
            bytes_in: inner.sessions.get(&run_id).map_or(0, |s| s.bytes_in),
            bytes_out: inner.sessions.get(&run_id).map_or(0, |s| s.bytes_out),
            conns: old.as_ref().map_or(0, |s| s.conns),
        };
        let ticket = match (&credential.fresh, inner.tickets.get(&credential.hash)) {
            (Some((claims, _)), _) => Ticket {
                jti: claims.jti.clone(),
                run_id: run_id.clone(),
                tenant: tenant.to_owned(),
                voucher: credential.voucher.clone(),
                exp: claims.exp,
                until: claims.session_until.max(claims.exp + SKEW_S),
                client: socket.client.ip(),
                ended: false,
            },
            (None, Some(ticket)) => Ticket {
                client: socket.client.ip(),
                ..ticket.clone()
            },
            (None, None) => return Err(Reason::TicketExpired.into()),
        };
        changes.put(SESSIONS, run_id.as_str(), &session);
        changes.put(TICKETS, credential.hash.as_str(), &ticket);
        let event = if old.is_some() {
            kind::SESSION_RESUMED
        } else {
            kind::SESSION_OPENED
        };
        tracing::info!(
            node_id = self.rules.node,
            invite_id = tenant,
            session = session.id,
            client = %session.client,
            event
        );
        changes.tell(now_ms, session_event(event, &session));
        self.commit(inner, &changes)?;
        inner.sessions.insert(run_id.clone(), session);
        inner.tickets.insert(credential.hash.clone(), ticket);
        Ok(Granted { run_id, nonce })
    }

    /// Counts and tells of a refused Login.
    fn refused_login(&self, denied: &Denied, client: Option<SocketAddr>, body: &Login) {
        let Denied { refusal, grant } = denied;
        let invite = grant.as_ref().and_then(invite_of);
        let tenant = match (grant, client) {
            (Some(grant), Some(client)) => Some(tenant_of(grant, client.ip())),
            _ => None,
        };
        tracing::warn!(
            node_id = self.rules.node,
            invite_id = invite.as_deref().unwrap_or_default(),
            client = client.map(|client| client.to_string()).unwrap_or_default(),
            reason = refusal.reason.code(),
            detail = refusal.what(),
            "login refused"
        );
        let subject = Subject {
            kind: kind::SESSION_REFUSED.to_owned(),
            invite,
            client: client.map(|client| client.to_string()),
            reason: Some(refusal.reason),
            detail: serde_json::json!({
                "what": refusal.what(),
                "frpc_version": body.version.chars().take(32).collect::<String>(),
            }),
            ..Subject::default()
        };
        let from = client
            .map(|client| super::model::source(client.ip()))
            .unwrap_or_default();
        let key = format!(
            "login/{from}/{}/{}",
            tenant.as_deref().unwrap_or(""),
            refusal.reason
        );
        self.deny(tenant.as_deref(), refusal.reason, key, subject);
    }
}

fn session_event(kind: &str, session: &Session) -> Subject {
    Subject {
        kind: kind.to_owned(),
        invite: session.invite(),
        session: Some(session.id.clone()),
        client: Some(session.client.to_string()),
        detail: serde_json::json!({
            "frpc_version": session.frpc_version,
            "tenant": session.tenant,
        }),
        ..Subject::default()
    }
}

/// Which session the login goes on with, and how; `None` = a new one.
fn find_session(
    inner: &Inner,
    body: &Login,
    credential: &Credential,
    tenant: &str,
    socket: &ControlSocket,
    now: i64,
) -> Result<Option<(String, Action)>, Refusal> {
    let seen = inner.tickets.get(&credential.hash);
    let own = seen.is_some_and(|ticket| ticket.run_id == body.run_id);
    let owner = match inner.sessions.get(&body.run_id) {
        _ if body.run_id.is_empty() => Owner::Nobody,
        // Its own, from whatever address: an anonymous tenant moves with its session.
        _ if own => Owner::Own,
        None => Owner::Unknown,
        Some(session) if session.tenant == tenant => Owner::Sibling,
        Some(_) => Owner::Stranger,
    };
    let brought = match (&credential.fresh, seen) {
        (_, Some(ticket)) => {
            let session = inner.sessions.get(&ticket.run_id);
            Brought::Seen {
                expired: ticket.exp.saturating_add(SKEW_S) < now,
                ended: ticket.ended,
                connected: session.is_some_and(Session::connected),
                same_address: ticket.client == socket.client.ip(),
            }
        }
        (Some((_, expired)), None) => Brought::Fresh { expired: *expired },
        // Forgotten between two looks.
        (None, None) => Brought::Fresh { expired: true },
    };
    Ok(match (login(brought, owner)?, seen) {
        (action @ (Action::Resume | Action::TakeOver), Some(ticket)) => {
            Some((ticket.run_id.clone(), action))
        }
        (Action::Extend, _) => Some((body.run_id.clone(), Action::Extend)),
        _ => None,
    })
}

/// Whether there is room for one more connected session. `known` is the one it goes on with.
fn room(
    inner: &Inner,
    max: &totoro_api::wire::push::PublicMax,
    tenant: &str,
    known: Option<&str>,
    standing: &Standing,
) -> Result<(), Refusal> {
    let others = || {
        inner
            .sessions
            .iter()
            .filter(|(run_id, session)| session.connected() && Some(run_id.as_str()) != known)
            .map(|(_, session)| session.tenant.as_str())
    };
    let most = standing.limits.max_clients as usize;
    if others().filter(|of| *of == tenant).count() >= most {
        let detail = format!("this invite allows {most} sessions at once and all are in use");
        return Err(Refusal::with(Reason::MaxClients, detail));
    }
    if !tenant.starts_with(PUBLIC) {
        return Ok(());
    }
    // Public limits also hold per IPv6 /48, and for all anonymous tenants together.
    if let Some(site) = site(tenant)
        && others()
            .filter(|of| super::model::site(of).as_ref() == Some(&site))
            .count()
            >= most
    {
        return Err(Refusal::with(
            Reason::PublicFull,
            format!("{site} has all its sessions"),
        ));
    }
    let public = || others().filter(|of| of.starts_with(PUBLIC));
    let tenants: std::collections::BTreeSet<&str> = public().filter(|of| *of != tenant).collect();
    if public().count() >= max.sessions as usize || tenants.len() >= max.tenants as usize {
        return Err(Reason::PublicFull.into());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
