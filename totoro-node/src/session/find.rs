//! What a login finds: the session that it goes on with, and room. Changes nothing.

use std::collections::BTreeSet;

use totoro_api::decide::{Action, Brought, Owner, Standing, login};
use totoro_api::wire::plugin::Login;
use totoro_api::wire::push::PublicMax;
use totoro_api::{Reason, Refusal};

use super::desk::Inner;
use super::login::Credential;
use super::model::{PUBLIC, Session, site};
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
        Some(session) if session.tenant == tenant => Owner::Sibling,
        Some(_) => Owner::Stranger,
    };
    let brought = match (&credential.fresh, seen) {
        (_, Some(ticket)) => {
            let session = inner.sessions.get(&ticket.run_id);
            Brought::Seen {
                expired: ticket.past(now),
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
pub(super) fn room(
    inner: &Inner,
    max: &PublicMax,
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
        let whose = if tenant.starts_with(PUBLIC) {
            "a visitor of this node"
        } else {
            "this invite"
        };
        let detail = match most {
            1 => format!("{whose} may have one session, and it is in use"),
            many => format!("{whose} may have {many} sessions, and all are in use"),
        };
        return Err(Refusal::with(Reason::MaxClients, detail));
    }
    if !tenant.starts_with(PUBLIC) {
        return Ok(());
    }
    // Public limits also hold per IPv6 /48, and for all anonymous tenants together.
    if let Some(ours) = site(tenant)
        && others()
            .filter(|of| site(of).as_ref() == Some(&ours))
            .count()
            >= most
    {
        return Err(Refusal::with(
            Reason::PublicFull,
            format!("{ours} has all its sessions"),
        ));
    }
    let public = || others().filter(|of| of.starts_with(PUBLIC));
    let tenants: BTreeSet<&str> = public().filter(|of| *of != tenant).collect();
    if public().count() >= max.sessions as usize || tenants.len() >= max.tenants as usize {
        return Err(Reason::PublicFull.into());
    }
    Ok(())
}

/// Whether one more ticket can be remembered for a tenant.
pub(super) fn room_for_ticket(inner: &Inner, tenant: &str, now: i64) -> Result<(), Refusal> {
    let whose = |tenant: &str| site(tenant).unwrap_or_else(|| tenant.to_owned());
    let ours = whose(tenant);
    let live = inner
        .tickets
        .values()
        .filter(|ticket| !ticket.past(now) && whose(&ticket.tenant) == ours)
        .count();
    if live >= MAX_TICKETS {
        let detail = "too many tickets were used here lately; keep the session, or wait until they \
                      expire";
        return Err(Refusal::with(Reason::RateLimited, detail));
    }
    Ok(())
}
