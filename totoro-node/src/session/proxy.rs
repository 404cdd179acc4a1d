//! A session asks for a port, or gives it back.

use std::collections::HashMap;

use serde_json::Value;
use totoro_api::decide::{Avoided, LOGIN_META, lease_room, read_proxy};
use totoro_api::wire::event::{Subject, kind};
use totoro_api::wire::plugin::{Answer, CloseProxy, NewProxy, User};
use totoro_api::{Reason, Refusal};
use totoro_ebpf::logic::bucket;

use super::commits::{Undo, UndoneLease};
use super::desk::{Desk, Inner, kernel_failed};
use super::model::Session;
use super::ports::{Lease, Plan, PortId, Wish, port_key, record_key};
use super::sessions::Sessions;
use super::strays::is_anothers;
use crate::kernel::boot_ns;
use crate::secret::random;
use crate::spool::Event;
use crate::store::{Changes, HELD, LEASES};

/// How long a late close of a proxy's earlier lease is expected, ms. frps sends it at once; it can
/// only be overtaken by a request on another connection.
pub(super) const LATE_MS: i64 = 5_000;
/// What one session may ask per second.
const ASKS: u32 = 10;
/// And at once, beside two requests for each proxy that it may have.
const ASKS_AT_ONCE: u32 = 50;

/// The session that a request belongs to: by run_id, and by the nonce that its Login was given.
fn session_of<'a>(sessions: &'a Sessions, user: &User) -> Option<&'a Session> {
    let nonce = user.metas.as_ref()?.get(LOGIN_META)?;
    sessions
        .get(&user.run_id)
        .filter(|session| session.nonce == *nonce)
}

impl Desk {
    /// Answers a NewProxy. `content` is the body as frps sent it, for an answer that changes it.
    pub async fn new_proxy(
        &self,
        body: &NewProxy,
        content: impl FnOnce() -> Result<Value, Refusal> + Send,
    ) -> Answer {
        let (leased, decided) = {
            let (_turn, mut desk) = self.asked().await;
            let leased = self.try_proxy(&mut desk, body);
            (leased, self.decided(desk))
        };
        // Also what is there already may be so only since a moment ago.
        let durable = decided.settled().await;
        let changed = |port: u16| {
            let mut content = content()?;
            if let Some(object) = content.as_object_mut() {
                object.insert("remote_port".to_owned(), port.into());
            }
            Ok(Answer::allow_with(content))
        };
        let answer = match leased.and_then(|port| durable.map(|()| port)) {
            Ok(port) if i64::from(port) == body.remote_port => Ok(Answer::allow()),
            Ok(port) => changed(port),
            Err(refusal) => Err(refusal),
        };
        match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                self.refused_proxy(&refusal, body);
                Answer::refuse(&refusal)
            }
        }
    }

    fn try_proxy(&self, inner: &mut Inner, body: &NewProxy) -> Result<u16, Refusal> {
        let now_ms = self.clock.now_ms();
        let Some(session) = session_of(&inner.sessions, &body.user) else {
            let detail = "this session is over";
            return Err(Refusal::with(Reason::SessionExpired, detail));
        };
        inner.enforces()?;
        let policy = &inner.policy;
        let standing = policy.standing(&session.voucher, now_ms / 1000)?;
        if !may_ask(
            &mut inner.asks,
            &body.user.run_id,
            standing.limits.max_proxies,
        ) {
            return Err(Reason::RateLimited.into());
        }
        let end = standing.session_end(session.begun_ms / 1000);
        if end.is_some_and(|end| end <= now_ms / 1000) {
            return Err(Reason::SessionExpired.into());
        }
        let asked = read_proxy(body, &session.user, &standing.limits)?;
        let wish = Wish {
            tenant: &session.tenant,
            run_id: &body.user.run_id,
            wire: &body.proxy_name,
            asked: &asked,
            limits: &standing.limits,
            pool: &policy.node.pool,
            // Where none is asked for.
            start: asked
                .port
                .map_or_else(|| u16::from_ne_bytes(random()), |_| 0)
                .into(),
            now_ms,
        };
        let (strays, wire) = (&inner.strays, &body.proxy_name);
        let is_strays = |port| is_anothers(strays, (asked.protocol, port), wire);
        let named = policy.invites.named();
        let plan = inner.ports.plan(wish, |port| match is_strays(port) {
            true => Some(Avoided::Open),
            false => (named.by_another(&session.tenant, port)).then_some(Avoided::Named),
        })?;
        // frps would not open it, and until then its users would be another's.
        if let Plan::Open { port, .. } = plan
            && is_strays(port)
        {
            let detail = format!("{} port {port} is in use in frps", asked.protocol);
            return Err(Refusal::with(Reason::PortInUse, detail));
        }
        // What nothing new is taken for: a proxy may have the port back that waits for it.
        if let Some(held) = standing.held
            && !inner.ports.comes_back(wish, plan)
        {
            return Err(held.into());
        }
        match plan {
            Plan::Same(port) => {
                // Either frps never got our answer, or frpc closed it and asks again, and the
                // close is still under way: then it must not take what this answer gives.
                let late = inner.late.entry((asked.protocol, port)).or_insert((0, 0));
                let still = if now_ms < late.1 { late.0 } else { 0 };
                *late = (still + 1, now_ms + LATE_MS);
                self.reconcile.notify_one();
                Ok(port)
            }
            Plan::Open { port, instead_of } => {
                let id = (asked.protocol, port);
                let (most, max) = (standing.limits.max_proxies, &policy.node.public_max);
                lease_room(
                    &session.tenant,
                    most,
                    max,
                    &inner.ports,
                    (id, instead_of),
                    now_ms,
                )?;
                let names = (&*body.proxy_name, &*asked.name);
                let of = (&*session.tenant, &*body.user.run_id);
                let lease = Lease::new(inner.numbers.lease, of, names, now_ms);
                let event = Event::new(now_ms, &lease.opened(id, session.as_holder()));
                if let Some(old) = instead_of {
                    let mut changes = Changes::default();
                    self.release(inner, &[old], "moved", &mut changes, now_ms);
                    self.flush(inner, changes);
                }
                self.open_lease(inner, id, lease, end, event)?;
                if asked.port.is_none() {
                    inner.unseen.insert(id);
                }
                if instead_of.is_some() {
                    inner.late.insert(id, (1, now_ms + LATE_MS));
                    self.reconcile.notify_one();
                }
                Ok(port)
            }
        }
    }

    /// The kernel first, then the disk, then the answer (see [`Desk::decided`]); back to nothing
    /// when one fails.
    fn open_lease(
        &self,
        inner: &mut Inner,
        id: PortId,
        lease: Lease,
        end: Option<i64>,
        event: Event,
    ) -> Result<(), Refusal> {
        inner.numbers.lease += 1;
        let number = inner
            .tenants
            .get(&*lease.tenant)
            .map(|tenant| tenant.number);
        let number = number.ok_or_else(|| Refusal::new(Reason::Internal))?;
        let key = port_key(id);
        // Its counts begin at nothing: the kernel side sees to its own, and another's are to go.
        if let Some(earlier) = inner.spent.take(id)
            && earlier.tenant != number
        {
            self.kernel
                .forget_lease(earlier.tenant, key)
                .map_err(|e| kernel_failed(&e))?;
        }
        if let Err(error) = self.show_lease(inner, id, &lease, number, end) {
            let refusal = kernel_failed(&error);
            // A full table says so to the tenant; whatever was written of it goes.
            let removed = self.kernel.remove_lease(key);
            let gone = removed.and_then(|_| self.kernel.forget_lease(number, key));
            return Err(gone.map_or_else(|error| kernel_failed(&error), |()| refusal));
        }
        let mut these = Changes::default();
        Desk::put_numbers(&mut these, inner.numbers);
        these.put(LEASES, record_key(id), &lease);
        these.remove(HELD, record_key(id));
        these.push(event);
        tracing::info!(
            node_id = self.rules.node,
            invite_id = &*lease.tenant,
            proxy_name = lease.name(),
            port = %record_key(id),
            "proxy opened"
        );
        let undo = UndoneLease {
            port: id,
            number: lease.number,
            waiting: inner.ports.open(id, lease),
        };
        self.grant(inner, these, Undo::Lease(undo));
        Ok(())
    }

    /// Takes note of a CloseProxy: it may be late, doubled, or a predecessor's.
    pub async fn close_proxy(&self, body: &CloseProxy) {
        let decided = {
            let (_turn, mut desk) = self.asked().await;
            self.note_closed(&mut desk, body);
            self.decided(desk)
        };
        // What the disk refuses is tried again: it has happened.
        let _ = decided.settled().await;
    }

    fn note_closed(&self, inner: &mut Inner, body: &CloseProxy) {
        let now_ms = self.clock.now_ms();
        let Some(session) = session_of(&inner.sessions, &body.user) else {
            return;
        };
        let standing = inner.policy.standing(&session.voucher, now_ms / 1000);
        let most = standing.map_or(0, |standing| standing.limits.max_proxies);
        if !may_ask(&mut inner.asks, &body.user.run_id, most) {
            // It can't be refused: the comparison with frps finds what was closed.
            self.reconcile.notify_one();
            return;
        }
        let Some((port, _)) = inner.ports.of_proxy(&body.user.run_id, &body.proxy_name) else {
            return;
        };
        if let Some((count, until)) = inner.late.get_mut(&port)
            && *count > 0
            && now_ms < *until
        {
            *count -= 1;
            // If it was meant for this lease after all, frps does not have the proxy any more.
            self.reconcile.notify_one();
            return;
        }
        let mut changes = Changes::default();
        self.release(inner, &[port], "closed", &mut changes, now_ms);
        self.flush(inner, changes);
    }

    /// Counts and tells of a refused NewProxy.
    fn refused_proxy(&self, refusal: &Refusal, body: &NewProxy) {
        let session = session_of(&self.lock().sessions, &body.user).cloned();
        let name: String = body.proxy_name.chars().take(80).collect();
        let prefix = session.as_ref().map(|session| format!("{}.", session.user));
        let name = prefix
            .and_then(|prefix| name.strip_prefix(&prefix).map(str::to_owned))
            .unwrap_or(name);
        let tenant = session.as_ref().map(|session| session.tenant.clone());
        tracing::warn!(
            node_id = self.rules.node,
            invite_id = tenant.as_deref().unwrap_or_default(),
            proxy_name = name,
            reason = refusal.reason.code(),
            detail = refusal.what(),
            "proxy refused"
        );
        let subject = Subject {
            kind: kind::PROXY_REFUSED.to_owned(),
            invite: session
                .as_ref()
                .and_then(Session::invite)
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
        self.deny(tenant.as_deref(), refusal.reason, "proxy", subject);
    }
}

/// Whether a session may ask one more thing now.
fn may_ask(asks: &mut HashMap<String, u64>, run_id: &str, max_proxies: u32) -> bool {
    let burst = ASKS_AT_ONCE.saturating_add(max_proxies.saturating_mul(2));
    let (interval, tolerance) = bucket::rate(ASKS, burst);
    let asked = match asks.get_mut(run_id) {
        Some(asked) => asked,
        None => asks.entry(run_id.to_owned()).or_default(),
    };
    let next = bucket::take(*asked, boot_ns(), interval, tolerance);
    *asked = next.unwrap_or(*asked);
    next.is_some()
}
