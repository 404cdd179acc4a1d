//! What a session does while it lives: pings, work connections, user connections.

use std::net::SocketAddr;
use std::time::Instant;

use serde::Deserialize;
use serde_json::value::RawValue;
use totoro_api::decide::{check_text, client_of, session_room, with_key};
use totoro_api::wire::event::{Subject, kind};
use totoro_api::wire::plugin::{Answer, NewUserConn, User};
use totoro_api::{Reason, Refusal};

use super::book::{self, Session};
use super::ending::word;
use super::policy::over;
use super::{Frps, answer_with, check_user, lock, read, refusal_of};
use crate::app::{App, Failure};

/// Content of `Ping` and `NewWorkConn`, as far as a decision needs it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asking {
    user: User,
}

impl App {
    /// Answers a Ping: the session lives, and must not go on when its standing has ended.
    pub(super) async fn ping_asked(&self, frps: &Frps<'_>, content: &RawValue) -> Answer {
        let user = match read::<Asking>(content) {
            Ok(asking) => asking.user,
            Err(refusal) => return self.refuse_living(frps, &User::default(), "ping", refusal),
        };
        match self.try_ping(frps, &user).await {
            Ok(()) => answer_with(content, with_key),
            Err(failure) => self.refuse_living(frps, &user, "ping", refusal_of(failure)),
        }
    }

    async fn try_ping(&self, frps: &Frps<'_>, user: &User) -> Result<(), Failure> {
        self.check_daemon(frps)?;
        check_user(user)?;
        let session = self.session_asking(frps, user)?.ok_or_else(over)?;
        if session.lost_ms.is_some() {
            // Its leases are gone while frps may still have its proxies: it must log in again.
            return Err(over().into());
        }
        let node = frps.node.id.as_str();
        match self.holding_now(node, &session) {
            Ok(_) => {}
            Err(Failure::Refused(refusal)) => {
                // frpc closes the connection, and with it all that it carries.
                let reason = refusal.reason;
                let for_good = reason == Reason::SessionExpired;
                self.at_desk(node, &frps.author(), |desk| {
                    if desk.session_of(user).is_none() {
                        return Ok(());
                    }
                    let run_id = &user.run_id;
                    Ok(desk.end_session(run_id, word(reason), Some(reason), for_good)?)
                })
                .await?;
                return Err(refusal.into());
            }
            Err(failed) => return Err(failed),
        }
        let id = (node.to_owned(), user.run_id.clone());
        lock(&self.callback.pings).insert(id, Instant::now());
        let is_idle = |run_id: &str| {
            let idle = self.store.revision(book::idle(node, run_id).as_bytes())?;
            Ok::<_, Failure>(idle.is_some())
        };
        if !session.pinged || session.idle_ms.is_some() || is_idle(&user.run_id)? {
            // Durable: after a restart it is still known that missing pings say something.
            self.at_desk(node, &frps.author(), |desk| {
                let Some(session) = desk.session_of(user).cloned() else {
                    return Err(over().into());
                };
                let holding = self.holding_of(desk.tx, node, &session)?;
                // It lives without a proxy: it takes its place again, if that is still free.
                let most = holding.standing.limits.max_clients;
                let others = desk.connected_but(&user.run_id);
                let max = &holding.node.public_max;
                let placed = session_room(&session.tenant, most, max, &others).is_ok();
                if !session.pinged {
                    let now = Session {
                        pinged: true,
                        ..Session::clone(&session)
                    };
                    desk.put_session(&user.run_id, now)?;
                }
                if placed {
                    desk.wake(&user.run_id)?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Answers a NewWorkConn: only a session that is known may bring one. (Without this a run_id
    /// alone would do.)
    pub(super) async fn work_conn_asked(&self, frps: &Frps<'_>, content: &RawValue) -> Answer {
        let user = match read::<Asking>(content) {
            Ok(asking) => asking.user,
            Err(refusal) => return self.refuse_living(frps, &User::default(), "work", refusal),
        };
        let decided = || {
            self.check_daemon(frps)?;
            check_user(&user)?;
            let session = self.session_asking(frps, &user)?.ok_or_else(over)?;
            self.holding_now(&frps.node.id, &session)
        };
        match decided() {
            Ok(_) => answer_with(content, with_key),
            Err(failure) => self.refuse_living(frps, &user, "work", refusal_of(failure)),
        }
    }

    /// Answers a NewUserConn: state and rate, which are all that can be held here.
    pub(super) async fn user_conn_asked(&self, frps: &Frps<'_>, content: &RawValue) -> Answer {
        let body = match read::<NewUserConn>(content) {
            Ok(body) => body,
            Err(refusal) => return self.refuse_conn(frps, &NewUserConn::default(), refusal),
        };
        match self.check_conn(frps, &body) {
            Ok(()) => Answer::allow(),
            Err(failure) => self.refuse_conn(frps, &body, refusal_of(failure)),
        }
    }

    fn check_conn(&self, frps: &Frps<'_>, body: &NewUserConn) -> Result<(), Failure> {
        self.check_daemon(frps)?;
        check_user(&body.user)?;
        for (name, text) in [
            ("proxy_name", &body.proxy_name),
            ("proxy_type", &body.proxy_type),
            ("remote_addr", &body.remote_addr),
        ] {
            check_text(name, text)?;
        }
        let source: SocketAddr = client_of(&body.remote_addr)
            .ok_or_else(|| Failure::malformed("remote_addr is no address"))?;
        let session = self.session_asking(frps, &body.user)?.ok_or_else(over)?;
        if session.lost_ms.is_some() {
            return Err(over().into());
        }
        let node = frps.node.id.as_str();
        if self.is_banned(node, source.ip())? {
            return Err(Reason::ClientBanned.into());
        }
        let holding = self.holding_now(node, &session)?;
        if let Some(held) = holding.standing.held {
            return Err(held.into());
        }
        let rate = holding.standing.limits.conn_rate;
        if !self.callback.conns.take(&session.of, (rate, rate)) {
            return Err(Reason::ConnRate.into());
        }
        Ok(())
    }

    /// A refused user connection: told of together with others, for there may be very many.
    fn refuse_conn(&self, frps: &Frps<'_>, body: &NewUserConn, refusal: Refusal) -> Answer {
        let session = self.session_asking(frps, &body.user).unwrap_or(None);
        let tenant = session.as_ref().map(|session| session.tenant.as_str());
        let name = name_of(session.as_deref().map(|asker| &**asker), &body.proxy_name);
        self.log_living(frps, tenant, &name, "conn", &refusal);
        let subject = Subject {
            kind: kind::CONN_REFUSED.to_owned(),
            invite: session
                .as_ref()
                .and_then(|session| session.invite())
                .map(str::to_owned),
            session: session.as_ref().map(|session| session.id.clone()),
            proxy: Some(name),
            reason: Some(refusal.reason),
            detail: serde_json::json!({
                "last_source": client_of(&body.remote_addr).map(|source| source.ip().to_string()),
            }),
            ..Subject::default()
        };
        self.gather(frps, tenant.unwrap_or_default(), subject);
        Answer::refuse(&refusal)
    }

    /// A refused Ping or NewWorkConn. What ended a session has left that event; a late request of one
    /// that is over is no news.
    fn refuse_living(&self, frps: &Frps<'_>, user: &User, what: &str, refusal: Refusal) -> Answer {
        let session = self.session_asking(frps, user).unwrap_or(None);
        let tenant = session.as_ref().map(|session| session.tenant.as_str());
        self.log_living(frps, tenant, "-", what, &refusal);
        Answer::refuse(&refusal)
    }

    fn log_living(
        &self,
        frps: &Frps<'_>,
        tenant: Option<&str>,
        proxy: &str,
        what: &str,
        refusal: &Refusal,
    ) {
        if let Some(tenant) = tenant {
            self.count_refused(&frps.node.id, tenant, refusal.reason);
        }
        tracing::warn!(
            node_id = frps.node.id,
            invite_id = tenant.unwrap_or("-"),
            proxy_name = proxy,
            reason = refusal.reason.code(),
            detail = refusal.what(),
            what,
            "refused"
        );
    }
}

/// A proxy's name without the user's prefix, short.
fn name_of(session: Option<&Session>, wire: &str) -> String {
    let prefix = session.map(|session| format!("{}.", session.user));
    let name = prefix
        .and_then(|prefix| wire.strip_prefix(&prefix))
        .unwrap_or(wire);
    name.chars().take(80).collect()
}
