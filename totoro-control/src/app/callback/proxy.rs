//! A session asks for a port, or gives it back.

use std::sync::Arc;

use serde_json::value::RawValue;
use totoro_api::decide::{Avoided, Lease, Plan, Wish, lease_room, read_proxy, session_room};
use totoro_api::wire::event::{Subject, kind};
use totoro_api::wire::plugin::{Answer, CloseProxy, NewProxy, User};
use totoro_api::{Reason, Refusal};

use super::desk::Desk;
use super::policy::{Asker, Holding, over};
use super::{ASKS, Frps, SessionId, answer_with, check_user, lock, named, read, refusal_of};
use crate::app::{App, Failure};
use crate::keys::random;

/// How long a late close of a proxy's earlier registration is expected, ms. frps sends it at once; it
/// can only be overtaken by a request on another connection.
const LATE_MS: i64 = 5_000;

impl App {
    /// Answers a NewProxy.
    pub(super) async fn proxy_asked(&self, frps: &Frps<'_>, content: &RawValue) -> Answer {
        let body = match read::<NewProxy>(content) {
            Ok(body) => body,
            Err(refusal) => {
                let nothing = NewProxy::default();
                return self.refuse_proxy(frps, &nothing, refusal).await;
            }
        };
        let decided = match self.check_proxy(frps, &body) {
            Ok(asker) => self.try_proxy(frps, &body, &asker).await,
            Err(failure) => Err(failure),
        };
        match decided {
            Ok(port) if i64::from(port) == body.remote_port => Answer::allow(),
            Ok(port) => answer_with(content, |mut content| {
                if let Some(object) = content.as_object_mut() {
                    object.insert("remote_port".to_owned(), port.into());
                }
                Answer::allow_with(content)
            }),
            Err(failure) => self.refuse_proxy(frps, &body, refusal_of(failure)).await,
        }
    }

    /// What costs nothing to refuse. The session that asks, as it was a moment ago.
    fn check_proxy(&self, frps: &Frps<'_>, body: &NewProxy) -> Result<Arc<Asker>, Failure> {
        self.check_daemon(frps)?;
        check_user(&body.user)?;
        let session = self.session_asking(frps, &body.user)?.ok_or_else(over)?;
        // What it holds is looked at where it matters.
        if self.may_ask(&body.user, 0) {
            return Ok(session);
        }
        let holding = self.holding_now(&frps.node.id, &session)?;
        let burst = holding.standing.limits.max_proxies.saturating_mul(2);
        if !self.may_ask(&body.user, burst) {
            return Err(Reason::RateLimited.into());
        }
        Ok(session)
    }

    fn may_ask(&self, user: &User, more: u32) -> bool {
        let (rate, burst) = ASKS;
        let allowed = (rate, burst.saturating_add(more));
        self.callback.asks.take(&user.run_id, allowed)
    }

    async fn try_proxy(
        &self,
        frps: &Frps<'_>,
        body: &NewProxy,
        asker: &Asker,
    ) -> Result<u16, Failure> {
        // Until it is known how many closes are late, none may come. By node, whose changes come one
        // after the other anyway: a busy node must not fill the queues of others.
        let _turn = self.callback.turns.of(frps.node.id.as_bytes()).await;
        let start = match body.remote_port {
            0 => usize::from(u16::from_ne_bytes(random())),
            _ => 0,
        };
        let (port, plan) = self
            .at_desk(&frps.node.id, &frps.author(), |desk| {
                self.lease(desk, body, asker, start)
            })
            .await?;
        let more = match plan {
            // Either frps never got our answer, or frpc closed it and asks again, and the close is
            // still under way: then it must not take what this answer gives.
            Plan::Same(_) => 1,
            Plan::Open { instead_of, .. } => u32::from(instead_of.is_some()),
        };
        if more > 0 {
            let now_ms = self.now_ms();
            let mut late = lock(&self.callback.late);
            let entry = late.entry(proxy_id(frps, &body.user, &body.proxy_name));
            let late = entry.or_insert((0, 0));
            let still = if now_ms < late.1 { late.0 } else { 0 };
            *late = (still + more, now_ms + LATE_MS);
        }
        Ok(port)
    }

    /// Decides about a port, and writes what follows. Refusals come before anything is written.
    fn lease(
        &self,
        desk: &mut Desk<'_, '_>,
        body: &NewProxy,
        asker: &Asker,
        start: usize,
    ) -> Result<(u16, Plan), Failure> {
        let session = desk.session_of(&body.user).cloned().ok_or_else(over)?;
        if session.lost_ms.is_some() {
            // frps may still have its other proxies; it must log in again to have them all anew.
            return Err(over().into());
        }
        let holds = match asker.is_of(&session.session) {
            true => self.holding_held(desk.tx, desk.node, asker)?,
            false => {
                let asker = Asker::new(desk.node, Arc::clone(&session.session));
                self.holding_held(desk.tx, desk.node, &asker)?
            }
        };
        let Holding { node, standing } = &**holds;
        let asked = read_proxy(body, &session.user, &standing.limits)?;
        let wish = Wish {
            tenant: &session.tenant,
            run_id: &body.user.run_id,
            wire: &body.proxy_name,
            asked: &asked,
            limits: &standing.limits,
            pool: &node.pool,
            start,
            now_ms: desk.now_ms,
        };
        let named = match asked.port {
            None => self.ports_named(desk.node)?,
            Some(_) => named::Ports::default(),
        };
        let avoid = |port| {
            let by_another = named.by_another(&session.tenant, port);
            by_another.then_some(Avoided::Named)
        };
        let plan = desk.ports.plan(wish, avoid)?;
        // What nothing new is taken for: a proxy may have the port back that waits for it.
        if let Some(held) = standing.held
            && !desk.ports.comes_back(wish, plan)
        {
            return Err(held.into());
        }
        let Plan::Open { port, instead_of } = plan else {
            let Plan::Same(port) = plan else {
                return Err(Reason::Internal.into());
            };
            return Ok((port, plan));
        };
        let id = (asked.protocol, port);
        if session.idle_ms.is_some() {
            // It had given up its place.
            let others = desk.connected_but(&body.user.run_id);
            let most = standing.limits.max_clients;
            session_room(&session.tenant, most, &node.public_max, &others)?;
        }
        lease_room(
            &session.tenant,
            standing.limits.max_proxies,
            &node.public_max,
            &desk.ports,
            (id, instead_of),
            desk.now_ms,
        )?;
        if let Some(old) = instead_of {
            desk.release(old, "moved")?;
        }
        let names = (&*body.proxy_name, &*asked.name);
        let of = (&*session.tenant, &*body.user.run_id);
        let lease = Lease::new(desk.next_lease(), of, names, desk.now_ms);
        desk.tell_lease(&lease.opened(id, session.as_holder()))?;
        desk.open_lease(id, lease)?;
        desk.wake(&body.user.run_id)?;
        Ok((port, plan))
    }

    /// Takes note of a CloseProxy: it may be late, doubled, or a predecessor's. It can't be refused.
    pub(super) async fn close_asked(&self, frps: &Frps<'_>, content: &RawValue) -> Answer {
        let body = match read::<CloseProxy>(content) {
            Ok(body) => body,
            Err(refusal) => return Answer::refuse(&refusal),
        };
        if let Err(failure) = self.try_close(frps, &body).await {
            // The lease ends with the session at the latest.
            refusal_of(failure);
        }
        Answer::allow()
    }

    async fn try_close(&self, frps: &Frps<'_>, body: &CloseProxy) -> Result<(), Failure> {
        check_user(&body.user)?;
        if self.session_asking(frps, &body.user)?.is_none() {
            return Ok(());
        }
        let run_id = body.user.run_id.as_str();
        let _turn = self.callback.turns.of(frps.node.id.as_bytes()).await;
        if self.is_late(frps, body) {
            return Ok(());
        }
        self.at_desk(&frps.node.id, &frps.author(), |desk| {
            if desk.session_of(&body.user).is_none() {
                return Ok(());
            }
            let Some((port, _)) = desk.ports.of_proxy(run_id, &body.proxy_name) else {
                return Ok(());
            };
            desk.release(port, "closed")?;
            if desk.ports.of_session(run_id).is_empty() {
                desk.rest(run_id)?;
            }
            Ok(())
        })
        .await
    }

    /// Whether this is a close of a proxy's earlier registration, and counts it.
    fn is_late(&self, frps: &Frps<'_>, body: &CloseProxy) -> bool {
        let mut late = lock(&self.callback.late);
        // Mostly there is none.
        if late.is_empty() {
            return false;
        }
        let id = proxy_id(frps, &body.user, &body.proxy_name);
        match late.get_mut(&id) {
            Some((count, until)) if *count > 0 && self.now_ms() < *until => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }

    /// Counts, logs and tells of a refused NewProxy.
    async fn refuse_proxy(&self, frps: &Frps<'_>, body: &NewProxy, refusal: Refusal) -> Answer {
        let session = self.session_asking(frps, &body.user).unwrap_or(None);
        let name: String = body.proxy_name.chars().take(80).collect();
        let prefix = session.as_ref().map(|session| format!("{}.", session.user));
        let name = prefix
            .and_then(|prefix| name.strip_prefix(&prefix).map(str::to_owned))
            .unwrap_or(name);
        let tenant = session.as_ref().map(|session| session.tenant.as_str());
        tracing::warn!(
            node_id = frps.node.id,
            invite_id = tenant.unwrap_or("-"),
            proxy_name = name,
            reason = refusal.reason.code(),
            detail = refusal.what(),
            "proxy refused"
        );
        if let Some(tenant) = tenant {
            self.count_refused(&frps.node.id, tenant, refusal.reason);
        }
        let subject = Subject {
            kind: kind::PROXY_REFUSED.to_owned(),
            invite: session
                .as_ref()
                .and_then(|session| session.invite())
                .map(str::to_owned),
            session: session.as_ref().map(|session| session.id.clone()),
            client: session.as_ref().map(|session| session.client.to_string()),
            proxy: Some(name),
            port: u16::try_from(body.remote_port)
                .ok()
                .filter(|port| *port != 0),
            reason: Some(refusal.reason),
            detail: serde_json::json!({
                "what": refusal.what(),
                "type": body.proxy_type.chars().take(16).collect::<String>(),
            }),
            ..Subject::default()
        };
        if refusal.reason == Reason::RateLimited {
            self.gather(frps, tenant.unwrap_or_default(), subject);
            return Answer::refuse(&refusal);
        }
        let event = frps.author().about(subject).node(&frps.node.id);
        match self.record(event).await {
            Ok(()) => Answer::refuse(&refusal),
            Err(failure) => Answer::refuse(&refusal_of(failure)),
        }
    }
}

/// One proxy of one session.
fn proxy_id(frps: &Frps<'_>, user: &User, wire: &str) -> (SessionId, String) {
    let session = (frps.node.id.clone(), user.run_id.clone());
    (session, wire.to_owned())
}
