//! A desk with a kernel and a disk that fail when told to, and what frps would ask it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_executor::block_on;
use serde_json::{Value, json};
use tempfile::TempDir;
use totoro_api::limits::Limits;
use totoro_api::ports::{Pool, Protocol};
use totoro_api::ticket::{Claims, Grant, Revision, SigningKey, sign};
use totoro_api::wire::event::NodeEvent;
use totoro_api::wire::plugin::{Answer, CloseProxy, Login, NewProxy};
use totoro_api::wire::push::{
    Applied, DesiredInvite, DesiredNode, DesiredState, InviteState, TicketKey,
};
use totoro_ebpf::abi;

use super::fake::Fake;
use crate::clock::{Clock, boot_ms};
use crate::secret::random_hex;
use crate::session::ports::{Patience, PortId};
use crate::session::{Desk, Gate, Online, Proxied, Rules, Tools};
use crate::spool::Spool;
use crate::store::{Store, flaky};

const NODE: &str = "nod_a";
pub(super) const GRACE_MS: i64 = 30_000;

pub(super) struct World {
    pub(super) desk: Desk,
    pub(super) kernel: Arc<Fake>,
    pub(super) store: Arc<Store>,
    pub(super) disk: Arc<AtomicBool>,
    pub(super) clock: Arc<Clock>,
    key: SigningKey,
    rev: u64,
    pub(super) node: DesiredNode,
    dir: TempDir,
}

/// What frps was told of a session.
#[derive(Clone, Debug)]
pub(super) struct On {
    pub(super) user: String,
    pub(super) run_id: String,
    login: String,
}

pub(super) fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    let kernel = Arc::new(Fake::default());
    let clock = Arc::new(Clock::new(0));
    let (desk, store, disk) = open(dir.path(), &kernel, &clock);
    World {
        desk,
        kernel,
        store,
        disk,
        clock,
        key,
        rev: 0,
        node: DesiredNode {
            pool: pool(),
            public: true,
            ..DesiredNode::default()
        },
        dir,
    }
}

fn pool() -> Pool {
    Pool {
        tcp: "20000-20099".parse().unwrap(),
        udp: "20000-20009".parse().unwrap(),
    }
}

fn open(dir: &Path, kernel: &Arc<Fake>, clock: &Arc<Clock>) -> (Desk, Arc<Store>, Arc<AtomicBool>) {
    let (store, disk) = flaky(dir);
    let store = Arc::new(store);
    let tools = Tools {
        kernel: Arc::clone(kernel) as Arc<dyn Gate>,
        store: Arc::clone(&store),
        clock: Arc::clone(clock),
        wake: Arc::default(),
    };
    let rules = Rules {
        tcp_mux: true,
        counts_own: true,
        node: NODE.to_owned(),
        own_ports: vec![7000],
        patience: Patience {
            reserve_ms: 600_000,
            cool_ms: 600_000,
        },
        grace_ms: GRACE_MS,
        pool: pool(),
        host: String::new(),
    };
    (Desk::open(tools, rules).unwrap(), store, disk)
}

impl World {
    /// The daemon is started again.
    pub(super) fn restart(self) -> World {
        let World {
            desk,
            kernel,
            store,
            clock,
            key,
            rev,
            node,
            dir,
            ..
        } = self;
        drop((desk, store));
        let (desk, store, disk) = open(dir.path(), &kernel, &clock);
        World {
            desk,
            kernel,
            store,
            disk,
            clock,
            key,
            rev,
            node,
            dir,
        }
    }

    /// Time passes.
    pub(super) fn pass(&self, ms: i64) {
        let now = boot_ms();
        self.clock.learn(now, now, self.clock.now_ms() + ms);
    }

    /// The control plane pushes everything anew, with these invites.
    pub(super) fn push(&mut self, invites: &[(&str, InviteState)]) -> Applied {
        let pushed = self.snapshot(invites);
        self.desk.apply(pushed).unwrap()
    }

    /// The control plane signs with another key from now on; a push brings it to the node.
    pub(super) fn rotate_key(&mut self) {
        self.key = SigningKey::generate().unwrap();
    }

    /// Everything anew, at the next revision.
    pub(super) fn snapshot(&mut self, invites: &[(&str, InviteState)]) -> DesiredState {
        self.rev += 1;
        let now = self.clock.now_ms() / 1000;
        let invite = |(id, state): &(&str, InviteState)| DesiredInvite {
            id: (*id).to_owned(),
            state: *state,
            epoch: 1,
            limits: Limits {
                max_clients: Some(3),
                max_proxies: Some(3),
                ..Limits::default()
            },
            expires_at: None,
        };
        let key = TicketKey {
            kid: self.key.kid().to_owned(),
            public: self.key.public(),
            not_before: now - 100_000,
            expires: now + 100_000,
        };
        DesiredState {
            revision: self.revision(),
            snapshot: true,
            node: Some(self.node.clone()),
            invites: invites.iter().map(invite).collect(),
            keys: Some(vec![key]),
            ..DesiredState::default()
        }
    }

    /// A change at the next revision.
    pub(super) fn change(&mut self) -> DesiredState {
        self.rev += 1;
        DesiredState {
            revision: self.revision(),
            ..DesiredState::default()
        }
    }

    pub(super) const fn revision(&self) -> Revision {
        Revision {
            generation: 1,
            rev: self.rev,
        }
    }

    /// A ticket for an invite, or for anybody.
    pub(super) fn ticket(&self, invite: &str) -> String {
        self.ticket_with(invite, |_| {})
    }

    /// A ticket that differs from the usual one.
    pub(super) fn ticket_with(&self, invite: &str, differs: impl FnOnce(&mut Claims)) -> String {
        let now = self.clock.now_ms() / 1000;
        let grant = match invite {
            "" => Grant::Public(true),
            invite => Grant::Invite(invite.to_owned()),
        };
        let mut claims = Claims {
            jti: random_hex(),
            node: NODE.to_owned(),
            grant,
            subject: String::new(),
            epoch: 1,
            limits: Limits::default(),
            revision: self.revision(),
            iat: now,
            exp: now + 3_600,
            session_until: now + 86_400,
        };
        differs(&mut claims);
        sign(&self.key, &claims)
    }

    /// A frpc logs in from `client`, over a connection of its own.
    pub(super) fn login(
        &self,
        user: &str,
        ticket: &str,
        run_id: &str,
        (client, cookie): (&str, u64),
    ) -> Result<On, String> {
        let client: SocketAddr = client.parse().unwrap();
        self.kernel.connect(client, cookie, 0);
        let content = json!({
            "user": user, "privilege_key": ticket, "run_id": run_id, "pool_count": 1,
            "client_address": client.to_string(), "client_id": "mine",
        });
        let body: Login = serde_json::from_value(content.clone()).unwrap();
        let content = read(block_on(self.desk.login(&body, content)))?;
        assert_eq!(content["client_id"], "", "frps is to say the run_id");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Ok(On {
            user: user.to_owned(),
            run_id: text(&content["run_id"]),
            login: text(&content["metas"]["totoro_login"]),
        })
    }

    /// The session of a new frpc of an invite.
    pub(super) fn on(&self, invite: &str, from: (&str, u64)) -> On {
        let ticket = self.ticket(invite);
        self.login(invite, &ticket, "", from).unwrap()
    }

    pub(super) fn new_proxy(&self, on: &On, name: &str, port: u16) -> Result<u16, String> {
        block_on(self.asking(on, name, port))
    }

    /// The same by somebody who may give up waiting.
    pub(super) async fn asking(&self, on: &On, name: &str, port: u16) -> Result<u16, String> {
        self.asking_for(on, name, ("tcp", port)).await
    }

    /// The same for a port of a protocol.
    pub(super) async fn asking_for(
        &self,
        on: &On,
        name: &str,
        (protocol, port): (&str, u16),
    ) -> Result<u16, String> {
        let content = json!({
            "user": user(on), "proxy_name": wire(on, name), "proxy_type": protocol,
            "remote_port": port,
        });
        let body: NewProxy = serde_json::from_value(content.clone()).unwrap();
        let answer = self.desk.new_proxy(&body, || Ok(content)).await;
        let unchanged = answer.unchange;
        let content = read(answer)?;
        if unchanged {
            return Ok(port);
        }
        Ok(u16::try_from(content["remote_port"].as_u64().unwrap()).unwrap())
    }

    pub(super) fn close_proxy(&self, on: &On, name: &str) {
        let content = json!({ "user": user(on), "proxy_name": wire(on, name) });
        let body: CloseProxy = serde_json::from_value(content).unwrap();
        block_on(self.desk.close_proxy(&body));
    }

    /// The connection with this cookie ends, and the kernel tells of it.
    pub(super) fn hang_up(&self, cookie: u64) {
        let mut maps = self.kernel.maps();
        maps.controls
            .retain(|_, control| control.socket.cookie != cookie);
        drop(maps);
        self.desk.on_events(&[abi::Event {
            kind: abi::EVENT_CONTROL_CLOSED,
            cookie,
            ..abi::Event::default()
        }]);
    }

    /// The leased ports.
    pub(super) fn leased(&self) -> Vec<u16> {
        let inner = self.desk.lock();
        inner.ports.leases().keys().map(|(_, port)| *port).collect()
    }

    /// Compares leases with frps, which has these proxies.
    pub(super) fn compare(&self, there: &BTreeMap<String, Proxied>) -> usize {
        let mut online = Online::asked(self.clock.now_ms());
        let proxies = there.clone().into_iter().collect();
        self.desk.look(&mut online, proxies);
        self.desk.compare(online)
    }

    /// The events in the spool.
    pub(super) fn told(&self) -> Vec<NodeEvent> {
        Spool::of(Arc::clone(&self.store)).batch().unwrap().events
    }

    pub(super) fn told_of(&self, kind: &str) -> Vec<NodeEvent> {
        let mut events = self.told();
        events.retain(|event| event.subject.kind == kind);
        events
    }

    pub(super) fn number_of(&self, tenant: &str) -> u32 {
        self.desk.lock().tenants[tenant].number
    }
}

pub(super) const fn tcp(port: u16) -> PortId {
    (Protocol::Tcp, port)
}

/// What frps has, by name; it does not say whose they are.
pub(super) fn online(proxies: &[(String, u16)]) -> BTreeMap<String, Proxied> {
    let all = proxies.iter().map(|(name, port)| {
        let proxied = Proxied {
            port: tcp(*port),
            client: String::new(),
        };
        (name.clone(), proxied)
    });
    all.collect()
}

pub(super) fn wire(on: &On, name: &str) -> String {
    if on.user.is_empty() {
        return name.to_owned();
    }
    format!("{}.{name}", on.user)
}

fn user(on: &On) -> Value {
    json!({ "user": on.user, "run_id": on.run_id, "metas": { "totoro_login": on.login } })
}

/// The content, or the refusal's code.
fn read(answer: Answer) -> Result<Value, String> {
    if !answer.reject {
        return Ok(answer.content.unwrap_or_default());
    }
    let code = answer.reject_reason.strip_prefix("totoro[").unwrap();
    Err(code.split_once(']').unwrap().0.to_owned())
}
