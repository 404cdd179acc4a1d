//! How a tunnel stands.

use serde::{Deserialize, Serialize};
use totoro_api::frpc::Proxy;
use totoro_api::limits::Effective;
use totoro_api::ports::Protocol;
use totoro_api::wire::heartbeat::{Grade, TenantUsage};

use super::event::{Left, Stats, Why};
use crate::access::Access;
use crate::told::Told;

/// Where a tunnel is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It was never connected yet.
    #[default]
    Connecting,
    /// frpc is logged in.
    Running,
    /// It was connected, and will be again.
    Reconnecting,
    /// It is over.
    Stopped,
}

/// One proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProxyState {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub protocol: Protocol,
    /// The service behind it.
    pub local: String,
    /// The public port that was asked for; 0 = any.
    pub remote_port: u16,
    /// Whether it runs.
    pub up: bool,
    /// Where it is reached, `host:port`: the last address, also while it is not up.
    pub address: Option<String>,
    /// Why it was refused, the last time that it was asked for.
    pub refused: Option<Told>,
    /// Its address was told since it last came up.
    #[serde(skip)]
    pub(super) announced: bool,
}

/// All of it, for whoever looks. No secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where it is on its way.
    pub phase: Phase,
    /// The control plane.
    pub control: String,
    /// The node's id.
    pub node: String,
    /// The node's name.
    pub node_name: String,
    /// `host:port` of its frps.
    pub server: String,
    /// The invite's id; absent for an anonymous visitor.
    pub invite: Option<String>,
    /// When the invite ends, Unix time; absent where it ends when somebody ends it.
    #[serde(default)]
    pub ends: Option<i64>,
    /// What is exposed.
    pub proxies: Vec<ProxyState>,
    /// What holds.
    pub limits: Effective,
    /// What is left of it.
    pub left: Left,
    /// How limits are enforced.
    pub grade: Grade,
    /// Limits that this grade cannot hold.
    pub unenforced: Vec<String>,
    /// Whether frps's certificate is checked against the node's CA.
    pub verified: bool,
    /// Why it is not connected.
    pub why: Option<Why>,
    /// Why it ended, where it did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Told>,
    /// The node takes nothing new.
    pub draining: bool,
    /// Public nodes that would do in its place while it drains; best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// The newest figures.
    pub stats: Option<Stats>,
    /// Since when it is as it is, Unix seconds.
    pub since: u64,
    /// How often it had to connect again.
    pub reconnects: u32,
}

impl Snapshot {
    /// Before anything happened.
    #[must_use]
    pub fn new(control: &str, access: &Access, proxies: &[Proxy], now: u64) -> Self {
        let proxies = proxies.iter().map(|proxy| ProxyState {
            name: proxy.name.clone(),
            protocol: proxy.protocol,
            local: crate::target::Target {
                host: proxy.local_ip.clone(),
                port: proxy.local_port,
            }
            .to_string(),
            remote_port: proxy.remote_port,
            up: false,
            address: None,
            refused: None,
            announced: false,
        });
        let mut snapshot = Snapshot {
            phase: Phase::Connecting,
            control: control.to_owned(),
            node: String::new(),
            node_name: String::new(),
            server: String::new(),
            invite: None,
            ends: None,
            proxies: proxies.collect(),
            limits: access.limits.clone(),
            left: Left::default(),
            grade: access.grade,
            unenforced: Vec::new(),
            verified: false,
            why: None,
            ended: None,
            draining: false,
            others: Vec::new(),
            stats: None,
            since: now,
            reconnects: 0,
        };
        snapshot.admit(access);
        snapshot
    }

    /// Takes over what a way in says, at first or anew.
    pub(super) fn admit(&mut self, access: &Access) {
        self.node.clone_from(&access.node);
        self.node_name.clone_from(&access.node_name);
        self.invite.clone_from(&access.invite);
        self.ends = access.ends;
        self.limits = access.limits.clone();
        self.grade = access.grade;
        self.unenforced.clone_from(&access.unenforced);
        self.verified = !access.tls_ca.is_empty();
        self.left = self.left_of(access.usage.as_ref());
    }

    /// What is left after others and this tunnel itself, as of these figures.
    pub(super) fn left_of(&self, usage: Option<&TenantUsage>) -> Left {
        let nothing = TenantUsage::default();
        let usage = usage.unwrap_or(&nothing);
        let ours = |name: &str| self.proxies.iter().any(|proxy| proxy.name == name);
        let (mine, others): (Vec<_>, Vec<_>) =
            usage.leases.iter().partition(|lease| ours(&lease.proxy));
        // The figures may be from before this tunnel came up.
        let sessions = usage.sessions.len() + usize::from(mine.is_empty());
        let left =
            |most: u32, used: usize| most.saturating_sub(u32::try_from(used).unwrap_or(most));
        let now = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        Left {
            clients: left(self.limits.max_clients, sessions),
            proxies: left(self.limits.max_proxies, others.len() + self.proxies.len()),
            conns: left(self.limits.max_conns, now(usage.conns)),
            flows: left(self.limits.max_flows, now(usage.flows)),
        }
    }
}
