//! The one place where sessions and leases change: state in memory, effects in the kernel, records
//! in the store, in the order that each case needs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use totoro_api::ports::Pool;
use totoro_api::{Reason, Refusal};

use super::align::inherited;
use super::canary::Canary;
use super::coalesce::Coalesce;
use super::commits::{Entry, writer};
use super::ends::Ends;
use super::gate::Gate;
use super::index::{Tickets, tickets};
use super::kept;
use super::mended::Mended;
use super::model::{FIRST_TENANT, Session, Tenants, Ticket, shared};
use super::passed::Passed;
use super::policy::Policy;
use super::ports::{Patience, PortId, Ports, parse_key};
use super::refused::{TOLD, Told, Unrefused};
use super::sessions::Sessions;
use super::shown::Shown;
use super::signatures::Signatures;
use super::spent::AllSpent;
use super::strays::Strays;
use crate::clock::Clock;
use crate::kernel::{ControlSocket, KernelError, Refused};
use crate::store::{
    BANS, Changes, Group, HELD, LEASES, META, Place, SESSIONS, Store, TENANTS, TICKETS,
};

/// Key in `META`: the next numbers of tenants and leases.
const NUMBERS: &str = "numbers";

/// How long a decision waits for its turn on a thread that has other work too. Decisions take a part of
/// it; what time brings may take longer on a node with much on it.
const TURN: Duration = Duration::from_millis(1);

/// What a desk works with.
pub struct Tools {
    /// The kernel side.
    pub kernel: Arc<dyn Gate>,
    /// Where state is kept.
    pub store: Arc<Store>,
    /// Time by the control plane's clock.
    pub clock: Arc<Clock>,
    /// Told when an event was spooled.
    pub wake: Arc<Notify>,
}

/// How a desk behaves.
#[derive(Clone, Debug)]
pub struct Rules {
    /// This node's id.
    pub node: String,
    /// TCP ports that may not be lent: frps's own, the plugin's, the admin API's.
    pub own_ports: Vec<u16>,
    /// How long ports wait and cool.
    pub patience: Patience,
    /// How long a session outlives its connection, ms.
    pub grace_ms: i64,
    /// Whether everything of one frpc comes over one connection (frps's `transport.tcpMux`).
    pub tcp_mux: bool,
    /// Whether this process is in the cgroup whose sockets are counted.
    pub counts_own: bool,
    /// The pool before anything was pushed.
    pub pool: Pool,
    /// Where users reach the node, without a port; empty when unknown.
    pub host: String,
}

/// Numbers that are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Numbers {
    pub(super) tenant: u32,
    pub(super) lease: u64,
}

/// A ban that was made on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LocalBan {
    /// Unix seconds; `None` = until lifted.
    pub(super) until: Option<i64>,
}

pub(super) struct Inner {
    pub(super) policy: Arc<Policy>,
    /// Where it and what follows from it become durable; `None` = they wait for the disk.
    pub(super) policy_place: Option<Place>,
    pub(super) local_bans: BTreeMap<IpNet, LocalBan>,
    pub(super) tenants: Tenants,
    pub(super) sessions: Sessions,
    pub(super) tickets: Tickets,
    pub(super) ports: Ports,
    pub(super) numbers: Numbers,
    /// Refusals by the plugin, per tenant.
    pub(super) denied: BTreeMap<String, BTreeMap<Reason, u64>>,
    pub(super) refusals: Coalesce,
    /// The kernel's refusal counters as they were last looked at.
    pub(super) refused: Vec<Refused>,
    /// The kernel's refusal counters as far as they were told.
    pub(super) told: Told,
    /// What passed tenants' leases.
    pub(super) passed: Passed,
    /// The longest connection of a lease that ended since its last summary, ms.
    pub(super) longest_ms: BTreeMap<u64, u64>,
    /// When connections were last summed up.
    pub(super) summed_ms: i64,
    /// Closes that are still to come for a proxy's earlier lease, and until when they may.
    pub(super) late: BTreeMap<PortId, (u32, i64)>,
    /// Leased ports that were chosen here, and on which no look at frps found the proxy yet.
    pub(super) unseen: BTreeSet<PortId>,
    /// By session: the GCRA state of what its frpc may ask.
    pub(super) asks: HashMap<String, u64>,
    /// frps's proxies that no lease covers.
    pub(super) strays: Strays,
    /// Ports outside the pool, without a lease, on which frps may listen until this connection of frpc's ends (`None`:
    /// an earlier daemon's knowledge); and since when.
    pub(super) leaving: BTreeMap<PortId, (Option<ControlSocket>, i64)>,
    /// When time ends sessions.
    pub(super) ends: Ends,
    /// What the kernel was shown.
    pub(super) shown: Shown,
    /// Tenants whose cut has not fully taken, by number.
    pub(super) cuts: BTreeMap<u32, Reason>,
    /// Leases that ended, and whose counters are in the kernel still.
    pub(super) spent: AllSpent,
    /// Whether the kernel was found to enforce.
    pub(super) canary: Canary,
    /// In what the kernel is not in line with what is decided.
    pub(super) untidy: Option<String>,
    /// For how many seconds it has been so.
    pub(super) untidy_s: u32,
    /// What could not be made durable yet.
    pub(super) pending: Changes,
}

/// Held by the question that is answered; given back behind the desk.
pub(super) type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

/// Sessions and leases of this node.
pub struct Desk {
    inner: Mutex<Inner>,
    /// Whose question of frps's is next.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// What is decided, and not durable yet.
    pub(super) commits: Group<Entry>,
    /// Of tickets that were never seen.
    pub(super) signatures: Signatures,
    pub(super) kernel: Arc<dyn Gate>,
    pub(super) clock: Arc<Clock>,
    pub(super) rules: Rules,
    /// Told when the leases and frps's proxies should be compared soon.
    pub reconcile: Notify,
    /// What differed and was brought in line.
    pub mended: Mended,
    /// When the kernel was last seen to refuse somebody.
    pub(super) unrefused: Unrefused,
}

impl Desk {
    /// Takes up where the last daemon ended: state from the store, the kernel brought in line with
    /// it. What the kernel refuses is tried again later: a daemon that does not run enforces less.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn open(tools: Tools, rules: Rules) -> Result<Desk> {
        let Tools {
            kernel,
            store,
            clock,
            wake,
        } = tools;
        let (policy, unwritten) = kept::read(&store)?;
        let policy = policy.unwrap_or_else(|| Policy::initial(rules.pool.clone()));
        // Record by record: no second copy of them all is ever there.
        let (mut sessions, mut tickets) = (Sessions::new(), tickets());
        let mut tenants = Tenants::new();
        store.each(TENANTS, |id, tenant| {
            tenants.insert(id.into(), tenant);
        })?;
        store.each(SESSIONS, |run_id, mut session: Session| {
            session.tenant = shared(&tenants, &session.tenant);
            sessions.insert(run_id, session);
        })?;
        store.each(TICKETS, |hash, mut ticket: Ticket| {
            // Most sessions have what their only ticket vouches for: kept once.
            let session = sessions.get(&ticket.run_id);
            if let Some(of) = session.filter(|session| session.voucher == ticket.voucher) {
                ticket.voucher = Arc::clone(&of.voucher);
            }
            ticket.tenant = shared(&tenants, &ticket.tenant);
            tickets.insert(hash, ticket);
        })?;
        let mut ports = Ports::default();
        store.each(LEASES, |key, lease| {
            let port = parse_key(&key);
            if let Some(port) = port.filter(|port| !ports.leases().contains_key(port)) {
                ports.open(port, lease);
            }
        })?;
        store.each(HELD, |key, waiting| {
            if let Some(port) = parse_key(&key) {
                ports.wait(port, waiting);
            }
        })?;
        let bans: Vec<(String, LocalBan)> = store.all(BANS)?;
        let since = (None, clock.now_ms());
        let inherited = inherited(&*kernel, &policy.node.pool, &rules.own_ports);
        let leaving = inherited.into_iter().map(|port| (port, since)).collect();
        let inner = Inner {
            policy: Arc::new(policy),
            policy_place: None,
            local_bans: bans
                .into_iter()
                .filter_map(|(prefix, ban)| Some((prefix.parse().ok()?, ban)))
                .collect(),
            tenants,
            sessions,
            tickets,
            ports,
            numbers: store.get(META, NUMBERS)?.unwrap_or(Numbers {
                tenant: FIRST_TENANT,
                lease: 1,
            }),
            denied: BTreeMap::new(),
            refusals: Coalesce::default(),
            refused: Vec::new(),
            told: store
                .get::<Told>(META, TOLD)?
                .unwrap_or_default()
                .of_this_boot(),
            passed: Passed::default(),
            longest_ms: BTreeMap::new(),
            summed_ms: clock.now_ms(),
            late: BTreeMap::new(),
            unseen: BTreeSet::new(),
            asks: HashMap::new(),
            strays: Strays::new(),
            leaving,
            ends: Ends::default(),
            shown: Shown::default(),
            cuts: BTreeMap::new(),
            spent: AllSpent::default(),
            canary: Canary::default(),
            untidy: None,
            untidy_s: 0,
            pending: Changes::default(),
        };
        let commits = Group::start(writer(store, wake));
        let desk = Desk {
            inner: Mutex::new(inner),
            turn: tokio::sync::Mutex::default(),
            commits: commits.context("start the thread that writes what is decided")?,
            signatures: Signatures::default(),
            kernel,
            clock,
            rules,
            reconcile: Notify::new(),
            mended: Mended::default(),
            unrefused: Unrefused::default(),
        };
        desk.take_up(unwritten);
        Ok(desk)
    }

    /// A panic while the lock was held leaves state that is no worse than after a kill: every
    /// record is written whole. Who has it sees nothing that the disk refused. A thread of a runtime
    /// that has to wait for long gives its other tasks to another. (One of a runtime that has no other
    /// must not ask.)
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        let soon = self.inner.try_lock_for(TURN);
        let mut inner = soon.unwrap_or_else(|| tokio::task::block_in_place(|| self.inner.lock()));
        let failed = self.commits.take_failed();
        if !failed.is_empty() {
            self.make_up(&mut inner, failed);
        }
        inner
    }

    /// The desk for one of frps's questions. They wait for each other as tasks: threads that wait for a
    /// lock yield and sleep, and who wakes them takes longer than the decision did.
    pub(super) async fn asked(&self) -> (Turn<'_>, MutexGuard<'_, Inner>) {
        let turn = self.turn.lock().await;
        (turn, self.lock())
    }

    /// Closes what the kernel has and the store does not, ends sessions whose connection is gone,
    /// and writes the rest again; with what is to be written of the policy first.
    fn take_up(&self, mut changes: Changes) {
        let now_ms = self.clock.now_ms();
        let mut desk = self.lock();
        let inner = &mut *desk;
        self.find_lost(inner, None, &mut changes, now_ms);
        self.align(inner, &mut changes, now_ms);
        self.flush_policy(inner, changes);
        // What the disk refuses is tried again with the next tick.
        let _ = self.settled(desk);
    }

    /// The record of the numbers.
    pub(super) fn put_numbers(changes: &mut Changes, numbers: Numbers) {
        changes.put(META, NUMBERS, &numbers);
    }
}

/// A failure of the kernel side towards frpc: the operator's log has the rest.
pub(super) fn kernel_failed(error: &KernelError) -> Refusal {
    tracing::error!(error = error.whole(), "the kernel side failed");
    Refusal::new(if error.is_full() {
        Reason::NodeFull
    } else {
        Reason::Internal
    })
}
