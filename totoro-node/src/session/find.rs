//! What a login finds: the session that it goes on with, and room. Changes nothing.

use std::sync::Arc;

use totoro_api::decide::{Action, Brought, Owner, PUBLIC, login};
use totoro_api::wire::plugin::Login;
use totoro_api::{Reason, Refusal};

use super::desk::Inner;
use super::index::owner_of;
use super::login::Credential;
use super::model::Session;
use crate::kernel::ControlSocket;

/// The most tickets of one tenant (of anonymous ones, of one IPv6 /48) that are remembered while
/// they can open sessions: a frpc that is started again all the time brings a new one each time.
const MAX_TICKETS: usize = 1000;

/// Which session the login goes on with, and how; `None` = a new one.
pub(super) fn find_session(
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
        Some(session) if *session.tenant == *tenant => Owner::Sibling,
        Some(_) => Owner::Stranger,
    };
    let brought = match (&credential.fresh, seen) {
        (_, Some(ticket)) => {
            let session = inner.sessions.get(&ticket.run_id);
            let connected = session.is_some_and(Session::connected);
            ticket.brought(connected, socket.client.ip(), now)
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

/// The tenants of the connected sessions that count against a tenant's, but the one that a login
/// goes on with: the tenant's own, or all anonymous ones.
pub(super) fn others<'a>(inner: &'a Inner, tenant: &str, known: Option<&str>) -> Vec<&'a str> {
    let sessions = &inner.sessions;
    let count = |(run_id, session): &(&Arc<str>, &Session)| {
        session.connected() && Some(&***run_id) != known
    };
    let tenant_of = |(_, session): (&Arc<str>, &'a Session)| &*session.tenant;
    if tenant.starts_with(PUBLIC) {
        let public = sessions.of_owners(PUBLIC).filter(count);
        return public.map(tenant_of).collect();
    }
    sessions
        .of_owner(tenant)
        .filter(count)
        .map(tenant_of)
        .collect()
}

/// Whether one more ticket can be remembered for a tenant.
pub(super) fn room_for_ticket(inner: &Inner, tenant: &Arc<str>, now: i64) -> Result<(), Refusal> {
    let owner = owner_of(tenant);
    if inner.tickets.count_of(&owner) < MAX_TICKETS {
        return Ok(());
    }
    let ours = inner.tickets.of_owner(&owner);
    let live = ours.filter(|(_, ticket)| !ticket.past(now)).count();
    if live >= MAX_TICKETS {
        let detail = "too many tickets were used here lately; keep the session, or wait until they \
                      expire";
        return Err(Refusal::with(Reason::RateLimited, detail));
    }
    Ok(())
}
