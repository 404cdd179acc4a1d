//! A frpc logs in.

use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;
use totoro_api::decide::{
    Action, Granted, PUBLIC, Voucher, check_login, client_of, rewritten, session_room, tenant_room,
    ticket_of, user_denied,
};
use totoro_api::ticket::{self, Claims, Grant, Unverified};
use totoro_api::wire::event::{Subject, kind};
use totoro_api::wire::plugin::{Answer, Login};
use totoro_api::{Reason, Refusal};
use totoro_ebpf::logic::stamp;

use super::desk::{Desk, Inner, kernel_failed};
use super::find::{find_session, others, room_for_ticket};
use super::model::{invite_of, shared, source, tenant_of};
use super::settle::Settling;
use crate::kernel::ControlSocket;
use crate::secret::random_hex;
use crate::store::Changes;

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
pub(super) struct Credential {
    pub(super) hash: String,
    pub(super) voucher: Arc<Voucher>,
    /// The claims of one that was never seen, and whether it is past its time.
    pub(super) fresh: Option<(Claims, bool)>,
}

impl Desk {
    /// Where a Login comes from: the address that frps tells, or, where it tells a websocket's
    /// origin, that of the connection whose stamp stands there. `None` where neither can be told.
    ///
    /// # Errors
    /// `rate_limited`, when so many look for stamps that this one does not wait for it.
    pub fn client(&self, client_address: &str) -> Result<Option<SocketAddr>, Refusal> {
        if let Some(client) = client_of(client_address) {
            return Ok(Some(client));
        }
        let Some(stamp) = stamp::parse(client_address) else {
            return Ok(None);
        };
        match tokio::task::block_in_place(|| self.kernel.stamped_control(stamp)) {
            Ok(socket) => Ok(socket.map(|socket| socket.client)),
            Err(error) if error.is_busy() => Err(Refusal::new(Reason::RateLimited)),
            Err(error) => {
                tracing::error!(error = error.whole(), "connections to frps can't be read");
                Ok(None)
            }
        }
    }

    /// Answers a Login that comes from `client_address`, as [`Desk::client`] tells it. `content` is
    /// the body as frps sent it.
    pub async fn login(&self, body: &Login, mut content: Value) -> Answer {
        let client = client_of(&body.client_address);
        let outcome = match (check_login(body), client) {
            (Ok(()), Some(client)) => self.try_login(body, client).await,
            (Err(refusal), _) => Err(refusal.into()),
            (Ok(()), None) => {
                // Whose connection it is, and what to destroy in the end, can't be told.
                let detail = "this node can't tell which connection this websocket is (its request \
                              must reach a filtered interface in one piece); set \
                              transport.protocol = \"tcp\"";
                Err(Refusal::with(Reason::Unsupported, detail).into())
            }
        };
        match outcome {
            Ok(granted) => {
                // frps says of each proxy what its client calls itself, else the run_id: whose it is.
                if let Some(name) = content.get_mut("client_id") {
                    *name = Value::String(String::new());
                }
                rewritten(content, body, &granted)
            }
            Err(denied) => {
                self.refused_login(&denied, client, body);
                Answer::refuse(&denied.refusal)
            }
        }
    }

    async fn try_login(&self, body: &Login, client: SocketAddr) -> Result<Granted, Denied> {
        let now_ms = self.clock.now_ms();
        let now = now_ms / 1000;
        let socket = self
            .kernel
            .control_socket(client)
            .map_err(|e| kernel_failed(&e))?;
        let Some(socket) = socket else {
            let detail = "frpc must reach this node by plain TCP (not kcp or quic); if it does, this node guards another \
                          port than frps listens on: its operator sees which (totoro-node check)";
            return Err(Refusal::with(Reason::Unsupported, detail).into());
        };
        let token = ticket_of(body);
        let hash = blake3::Hash::from_bytes(ticket::hash(token))
            .to_hex()
            .to_string();
        // The keys alone: a change of a policy that is held elsewhere copies all of it.
        let (keys, seen) = {
            let (_turn, inner) = self.asked().await;
            may_enter(&inner, client, now)?;
            let seen = inner.tickets.get(&hash).cloned();
            (inner.policy.keys.clone(), seen)
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
                let ticket = Unverified::read(token, &self.rules.node, &keys)?;
                let verified = self.signatures.verify(ticket).await?.claims(now)?;
                Credential {
                    hash,
                    voucher: Arc::new(Voucher::from(&verified.claims)),
                    fresh: Some((verified.claims, verified.expired)),
                }
            }
        };
        let (admitted, decided) = {
            let (_turn, mut desk) = self.asked().await;
            let admitted = self.admit(&mut desk, body, socket, &credential, now_ms);
            (admitted, self.decided(desk))
        };
        let durable = decided.settled().await;
        let grant = credential.voucher.grant.clone();
        admitted
            .and_then(|granted| durable.map(|()| granted))
            .map_err(|refusal| Denied {
                refusal,
                grant: Some(grant),
            })
    }

    /// Decides about a credential that is genuine, and makes the decision hold.
    fn admit(
        &self,
        inner: &mut Inner,
        body: &Login,
        socket: ControlSocket,
        credential: &Credential,
        now_ms: i64,
    ) -> Result<Granted, Refusal> {
        let now = now_ms / 1000;
        // Again: a ban may have come since, and it ends what it finds.
        may_enter(inner, socket.client, now)?;
        let policy = Arc::clone(&inner.policy);
        let voucher = &credential.voucher;
        let standing = policy.standing(voucher, now)?;
        let invite = invite_of(&voucher.grant);
        let is_invite = |name: &str| policy.invites.contains_key(name);
        if let Some(refusal) = user_denied(&body.user, invite, is_invite) {
            return Err(refusal);
        }
        let tenant = tenant_of(&voucher.grant, socket.client.ip());
        let tenant = shared(&inner.tenants, &tenant);

        // A connection that has just ended must not count as one that lives.
        let mut changes = Changes::default();
        self.find_lost(inner, Some(&tenant), &mut changes, now_ms);
        self.flush(inner, changes);

        let run_id = find_session(inner, body, credential, &tenant, &socket, now)?;
        let known = run_id
            .as_ref()
            .and_then(|(run_id, _)| inner.sessions.get(run_id));
        // What nothing new is taken for: a session that is known may come back.
        if let Some(held) = standing.held.filter(|_| known.is_none()) {
            return Err(held.into());
        }
        let extended = matches!(run_id, Some((_, Action::Extend)));
        let begun_ms = known.filter(|_| !extended).map_or(now_ms, |s| s.begun_ms);
        if standing
            .session_end(begun_ms / 1000)
            .is_some_and(|end| end <= now)
        {
            return Err(Reason::SessionExpired.into());
        }
        let known = run_id.as_ref().map(|(run_id, _)| run_id.as_str());
        let others = others(inner, &tenant, known);
        let max = &policy.node.public_max;
        session_room(&tenant, standing.limits.max_clients, max, &others)?;
        let anonymous = (Bound::Included(PUBLIC), Bound::Unbounded);
        let known = inner.tenants.range::<str, _>(anonymous);
        let known = known.map(|(id, _)| &**id);
        tenant_room(&tenant, standing.limits.max_clients, max, known)?;
        if credential.fresh.is_some() {
            room_for_ticket(inner, &tenant, now)?;
        }
        let settling = Settling {
            body,
            socket,
            credential,
            tenant: &tenant,
            standing: &standing,
            run_id: run_id.map_or_else(random_hex, |(run_id, _)| run_id),
            begun_ms,
            now_ms,
        };
        self.settle(inner, settling)
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
            invite_id = invite.unwrap_or_default(),
            client = client.map(|client| client.to_string()).unwrap_or_default(),
            reason = refusal.reason.code(),
            detail = refusal.what(),
            "login refused"
        );
        let subject = Subject {
            kind: kind::SESSION_REFUSED.to_owned(),
            invite: invite.map(str::to_owned),
            client: client.map(|client| client.to_string()),
            reason: Some(refusal.reason),
            detail: serde_json::json!({
                "what": refusal.what(),
                "frpc_version": body.version.chars().take(32).collect::<String>(),
            }),
            ..Subject::default()
        };
        let from = client.map(|client| source(client.ip())).unwrap_or_default();
        let what = format!("login/{from}");
        self.deny(tenant.as_deref(), refusal.reason, &what, subject);
    }
}

/// Whether anybody may come from there now.
fn may_enter(inner: &Inner, client: SocketAddr, now: i64) -> Result<(), Refusal> {
    inner.enforces()?;
    if inner.is_banned(client.ip(), now) {
        return Err(Reason::ClientBanned.into());
    }
    Ok(())
}
