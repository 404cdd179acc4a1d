//! A frpc logs in.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use serde::Deserialize as _;
use serde_json::Value;
use serde_json::value::RawValue;
use totoro_api::decide::{
    Action, Brought, Granted, Owner, SeenTicket, Voucher, check_login, client_of, invite_of, login,
    rewritten, session_room, source, tenant_of, ticket_of, unreadable, user_denied,
};
use totoro_api::ticket::{self, Claims, Grant};
use totoro_api::wire::event::{Subject, kind};
use totoro_api::wire::plugin::{Answer, Login};
use totoro_api::{Reason, Refusal};

use super::book::{self, Session};
use super::desk::Desk;
use super::policy::end_of;
use super::{Frps, LOGINS, read, refusal_of};
use crate::app::{App, Failure, checked_id};
use crate::keys::random_hex;
use crate::records::key;
use crate::store;

/// The most sessions, and the most tickets, of one tenant that are remembered: a frpc that is started
/// again all the time brings new ones each time.
const MAX_REMEMBERED: usize = 1000;

/// The credential as it was brought: checked (or recognised), with what it says.
struct Credential {
    hash: String,
    voucher: Arc<Voucher>,
    /// What was known of it, as of this revision of the node's head, where that was at hand.
    seen: Option<SeenTicket>,
    stood: Option<u64>,
    /// The claims of one that was never seen, and whether it is past its time.
    fresh: Option<(Claims, bool)>,
}

/// A session that a login goes on with: its run_id, and how.
type Found = Option<(String, Action)>;

impl App {
    /// Answers a Login.
    pub(super) async fn login_asked(&self, frps: &Frps<'_>, content: &RawValue) -> Answer {
        // All of it before anything is decided: what is granted must get to frps.
        let whole = read::<Value>(content);
        let read = whole.and_then(|whole| {
            let login = Login::deserialize(&whole).map_err(|error| unreadable(&error))?;
            Ok((login, whole))
        });
        let (body, whole) = match read {
            Ok(read) => read,
            Err(refusal) => {
                let nothing = Login::default();
                return self.refuse_login(frps, &nothing, None, refusal).await;
            }
        };
        match self.try_login(frps, &body).await {
            Ok(Ok(granted)) => rewritten(whole, &body, &granted),
            // It has its event.
            Ok(Err(refusal)) => Answer::refuse(&refusal),
            Err(failure) => {
                let refusal = refusal_of(failure);
                self.refuse_login(frps, &body, None, refusal).await
            }
        }
    }

    /// `Ok(Err(…))` is a refusal that was told of already.
    async fn try_login(
        &self,
        frps: &Frps<'_>,
        body: &Login,
    ) -> Result<Result<Granted, Refusal>, Failure> {
        self.check_daemon(frps)?;
        check_login(body)?;
        let client = client_of(&body.client_address).ok_or_else(|| {
            Failure::malformed("client_address is no address; frps itself writes it")
        })?;
        let node = frps.node.id.as_str();
        let door = (node.to_owned(), door_of(client.ip()));
        if !self.callback.doors.take(&door, LOGINS) {
            return Err(Reason::RateLimited.into());
        }
        if self.is_banned(node, client.ip())? {
            return Err(Reason::ClientBanned.into());
        }
        let token = ticket_of(body);
        let hash = hex::encode(ticket::hash(token));
        let stood = self.callback.tables.revision(node);
        let seen = store::read::<SeenTicket>(&*self.store, &book::ticket(node, &hash))?;
        let seen = seen.map(|seen| seen.value);
        // A ticket that was seen is recognised by its hash; its key may be gone since.
        let (voucher, fresh) = match &seen {
            Some(seen) => (Arc::clone(&seen.voucher), None),
            None => {
                let verified = ticket::verify(token, node, &self.ticket_keys().into(), self.now())?;
                let voucher = Arc::new(Voucher::from(&verified.claims));
                (voucher, Some((verified.claims, verified.expired)))
            }
        };
        let credential = Credential {
            hash,
            voucher,
            seen,
            stood,
            fresh,
        };
        let outcome = self
            .at_desk(node, &frps.author(), |desk| {
                match self.admit(desk, body, client, &credential) {
                    Ok(granted) => Ok(Ok(granted)),
                    Err(Failure::Refused(refusal)) => {
                        let grant = Some(&credential.voucher.grant);
                        desk.tell(refused(body, Some(client), grant, &refusal))?;
                        Ok(Err(refusal))
                    }
                    Err(failed) => Err(failed),
                }
            })
            .await?;
        if let Err(refusal) = &outcome {
            self.log_refused_login(frps, Some(client), Some(&credential.voucher.grant), refusal);
        }
        Ok(outcome)
    }

    /// Decides about a credential that is genuine, and writes what follows. Refusals come before
    /// anything is written.
    fn admit(
        &self,
        desk: &mut Desk<'_, '_>,
        body: &Login,
        client: SocketAddr,
        credential: &Credential,
    ) -> Result<Granted, Failure> {
        let now = desk.now();
        let voucher = &credential.voucher;
        let holding = self.holding(desk.tx, desk.node, voucher)?;
        let standing = &holding.standing;
        let must = invite_of(&voucher.grant);
        let is_invite = |name: &str| {
            checked_id(name).is_ok_and(|id| {
                let found = self.store.revision(key::invite(id).as_bytes());
                found.is_ok_and(|found| found.is_some())
            })
        };
        if let Some(refusal) = user_denied(&body.user, must, is_invite) {
            return Err(refusal.into());
        }
        let tenant = tenant_of(&voucher.grant, client.ip());
        // Whoever writes a ticket writes the head: where that stands, so does what was read behind it.
        let seen = match credential.stood.is_some() && credential.stood == desk.revision {
            true => credential.seen.clone(),
            false => desk.ticket(&credential.hash)?,
        };
        let found = find_session(desk, body, credential, seen.as_ref(), &tenant, client)?;
        let known = found.as_ref().map(|(run_id, _)| run_id.as_str());
        let old = known.and_then(|run_id| desk.sessions.get(run_id)).cloned();
        // What nothing new is taken for: a session that is known may come back.
        if let Some(held) = standing.held.filter(|_| old.is_none()) {
            return Err(held.into());
        }
        let extended = matches!(found, Some((_, Action::Extend)));
        let begun_ms = old
            .as_ref()
            .filter(|_| !extended)
            .map_or(desk.now_ms, |old| old.begun_ms);
        let others = desk.connected_but(known.unwrap_or_default());
        let most = standing.limits.max_clients;
        session_room(&tenant, most, &holding.node.public_max, &others)?;
        if credential.fresh.is_some() {
            self.room_to_remember(desk, &tenant)?;
        }
        let session = Session {
            id: old.as_ref().map_or_else(
                || format!("ses_{}", random_hex::<8>()),
                |old| old.id.clone(),
            ),
            tenant: tenant.clone(),
            voucher: voucher.clone(),
            nonce: random_hex::<16>(),
            user: body.user.clone(),
            client,
            opened_ms: old.as_ref().map_or(desk.now_ms, |old| old.opened_ms),
            begun_ms,
            lost_ms: None,
            idle_ms: None,
            pinged: false,
            tickets: old.as_ref().map_or(0, |old| old.tickets)
                + u32::from(credential.fresh.is_some()),
            frpc_version: body.version.clone(),
        };
        if end_of(&session, standing).is_some_and(|end| end <= now) {
            return Err(Reason::SessionExpired.into());
        }
        let run_id = known.map_or_else(random_hex::<16>, str::to_owned);
        let ticket = match (&credential.fresh, seen) {
            (Some((claims, _)), _) => SeenTicket {
                jti: claims.jti.clone(),
                run_id: run_id.clone(),
                tenant: tenant.into(),
                voucher: voucher.clone(),
                exp: claims.exp,
                client: client.ip(),
                ended: false,
            },
            (None, Some(seen)) => SeenTicket {
                tenant: tenant.into(),
                client: client.ip(),
                ..seen
            },
            (None, None) => return Err(Reason::TicketExpired.into()),
        };
        self.settle(
            desk,
            run_id,
            old.is_some(),
            session,
            &ticket,
            &credential.hash,
        )
    }

    /// Whether one more session and ticket can be remembered for a tenant.
    fn room_to_remember(&self, desk: &Desk<'_, '_>, tenant: &str) -> Result<(), Failure> {
        let ours = || desk.sessions.values().filter(|of| of.tenant == tenant);
        let bound: usize = ours().map(|session| session.tickets as usize).sum();
        let full = ours().count() >= MAX_REMEMBERED
            // Those of a long life are mostly past: counted only where it may matter.
            || (bound >= MAX_REMEMBERED && {
                let all = store::records::<SeenTicket>(&*self.store, &book::tickets(desk.node))?;
                let now = desk.now();
                let live = |of: &SeenTicket| *of.tenant == *tenant && !of.past(now);
                all.iter().filter(|(_, of)| live(&of.value)).count() >= MAX_REMEMBERED
            });
        if full {
            let detail = "too many tickets were used here lately; keep the session, or wait until \
                          they expire";
            return Err(Failure::refused(Reason::RateLimited, detail));
        }
        Ok(())
    }

    /// Writes a login that was decided about.
    fn settle(
        &self,
        desk: &mut Desk<'_, '_>,
        run_id: String,
        known: bool,
        session: Session,
        ticket: &SeenTicket,
        hash: &str,
    ) -> Result<Granted, Failure> {
        // frps closes the replaced connection's proxies; the new one asks for them again.
        desk.give_up_leases(&run_id, "connection_lost")?;
        // An anonymous tenant moves with its session, and its ports with it.
        desk.move_ports(&run_id, &session.tenant)?;
        desk.tx.put(book::ticket(desk.node, hash), ticket)?;
        let granted = Granted {
            run_id: run_id.clone(),
            nonce: session.nonce.clone(),
        };
        let event = if known {
            kind::SESSION_RESUMED
        } else {
            kind::SESSION_OPENED
        };
        desk.tell(Subject {
            kind: event.to_owned(),
            invite: session.invite().map(str::to_owned),
            session: Some(session.id.clone()),
            client: Some(session.client.to_string()),
            detail: serde_json::json!({
                "frpc_version": session.frpc_version, "tenant": session.tenant,
            }),
            ..Subject::default()
        })?;
        desk.wake(&run_id)?;
        desk.put_session(&run_id, session)?;
        Ok(granted)
    }

    /// Counts, logs and tells of a Login that was refused before it came to its ticket's rights.
    async fn refuse_login(
        &self,
        frps: &Frps<'_>,
        body: &Login,
        grant: Option<&Grant>,
        refusal: Refusal,
    ) -> Answer {
        let client = client_of(&body.client_address);
        self.log_refused_login(frps, client, grant, &refusal);
        let subject = refused(body, client, grant, &refusal);
        if refusal.reason == Reason::RateLimited {
            // Whoever knocks too often must not cost a disk write each time.
            let from = client.map(|client| source(client.ip())).unwrap_or_default();
            self.gather(frps, &from, subject);
            return Answer::refuse(&refusal);
        }
        let event = frps.author().about(subject).node(&frps.node.id);
        match self.record(event).await {
            Ok(()) => Answer::refuse(&refusal),
            Err(failure) => Answer::refuse(&refusal_of(failure)),
        }
    }

    fn log_refused_login(
        &self,
        frps: &Frps<'_>,
        client: Option<SocketAddr>,
        grant: Option<&Grant>,
        refusal: &Refusal,
    ) {
        let invite = grant.and_then(invite_of);
        if let (Some(grant), Some(client)) = (grant, client) {
            self.count_refused(
                &frps.node.id,
                &tenant_of(grant, client.ip()),
                refusal.reason,
            );
        }
        tracing::warn!(
            node_id = frps.node.id,
            invite_id = invite.unwrap_or("-"),
            proxy_name = "-",
            client = client.map(|client| client.to_string()).unwrap_or_default(),
            reason = refusal.reason.code(),
            detail = refusal.what(),
            "login refused"
        );
    }
}

/// By what logins from there are counted.
fn door_of(client: IpAddr) -> IpAddr {
    const INTERFACE: u128 = u64::MAX as u128;
    match client.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !INTERFACE).into(),
        ip => ip,
    }
}

fn refused(
    body: &Login,
    client: Option<SocketAddr>,
    grant: Option<&Grant>,
    refusal: &Refusal,
) -> Subject {
    Subject {
        kind: kind::SESSION_REFUSED.to_owned(),
        invite: grant.and_then(invite_of).map(str::to_owned),
        client: client.map(|client| client.to_string()),
        reason: Some(refusal.reason),
        detail: serde_json::json!({
            "what": refusal.what(),
            "frpc_version": body.version.chars().take(32).collect::<String>(),
        }),
        ..Subject::default()
    }
}

/// Which session the login goes on with, and how; `None` = a new one.
fn find_session(
    desk: &Desk<'_, '_>,
    body: &Login,
    credential: &Credential,
    seen: Option<&SeenTicket>,
    tenant: &str,
    client: SocketAddr,
) -> Result<Found, Refusal> {
    let owner = match desk.sessions.get(&body.run_id) {
        _ if body.run_id.is_empty() => Owner::Nobody,
        // Its own, from whatever address: an anonymous tenant moves with its session.
        _ if seen.is_some_and(|seen| seen.run_id == body.run_id) => Owner::Own,
        None => Owner::Unknown,
        Some(session) if session.tenant == tenant => Owner::Sibling,
        Some(_) => Owner::Stranger,
    };
    let brought = match (seen, &credential.fresh) {
        (Some(seen), _) => {
            let session = desk.sessions.get(&seen.run_id);
            let connected = session.is_some_and(|session| session.connected());
            seen.brought(connected, client.ip(), desk.now())
        }
        (None, Some((_, expired))) => Brought::Fresh { expired: *expired },
        // Forgotten between two looks.
        (None, None) => Brought::Fresh { expired: true },
    };
    Ok(match (login(brought, owner)?, seen) {
        (action @ (Action::Resume | Action::TakeOver), Some(seen)) => {
            Some((seen.run_id.clone(), action))
        }
        (Action::Extend, _) => Some((body.run_id.clone(), Action::Extend)),
        _ => None,
    })
}
