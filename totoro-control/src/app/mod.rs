//! The use cases, one per file. They know records, policy and the trail; not HTTP.

pub mod backup;
pub mod ban;
mod ban_index;
pub mod callback;
pub mod caller;
mod crowd;
mod decoded;
pub mod enrol;
pub mod events;
mod failure;
mod fields;
mod frpc;
pub mod heartbeat;
pub mod holder;
pub mod idempotency;
pub mod invite;
mod invite_batch;
pub mod invite_change;
pub mod invite_list;
mod invite_over;
pub mod issue;
pub mod janitor;
mod listing;
mod live;
pub mod node;
pub mod node_change;
mod node_gone;
mod node_key;
mod node_new;
mod presence;
pub mod public;
pub mod resolve;
pub mod restore;
pub mod session;
mod tell;
pub mod ticket_key;
pub mod token;
mod transact;
pub mod usage;

#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use totoro_api::ticket::Revision;

pub use self::caller::{Caller, Reach};
pub use self::failure::Failure;
pub use self::fields::checked_id;

use crate::audit::Trail;
use crate::config::Config;
use crate::keys::{KeyRing, ServerSecret};
use crate::metrics::Metrics;
use crate::records::{Generation, key};
use crate::store::{Store, StoreError};

use self::ban_index::BanIndex;
use self::callback::Callback;
use self::crowd::Crowd;
use self::decoded::Decoded;
use self::listing::Unreached;
use self::live::Live;
use self::node_key::Retired;
use self::public::Listed;
use self::token::Used;
use self::transact::Turns;

/// The control plane without its sockets.
pub struct App {
    /// The settings.
    pub config: Config,
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// What has happened.
    pub trail: Arc<Trail>,
    /// What Prometheus is told.
    pub metrics: Metrics,
    /// What lookups by secret are keyed with.
    pub secret: ServerSecret,
    /// The ticket keys. Written once a year, read for each ticket.
    ring: RwLock<KeyRing>,
    /// What nodes reported last.
    live: Live,
    /// How many invites each node has, and is about to have.
    crowd: Crowd,
    /// Nodes that have used a new key, whose old one is still to be removed from the store.
    retired: Retired,
    /// Why addresses of public nodes are not reached.
    unreached: Unreached,
    /// When admin tokens were last used.
    used: Used,
    /// Whose turn it is to make a ticket key.
    rotating: tokio::sync::Mutex<()>,
    /// The bans, compiled.
    bans: BanIndex,
    /// Records that are read with every request.
    decoded: Decoded,
    /// Nodes at grade `callback`, as far as memory has them.
    callback: Callback,
    /// The public list, a moment old at most.
    listed: Listed,
    /// Whose turn it is where many change the same thing.
    turns: Turns,
    /// The store's incarnation.
    generation: u64,
    /// Turns true once, when the process is asked to end: streams and long polls end at once.
    stopping: watch::Sender<bool>,
}

/// Why the control plane cannot start on this store.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing in it.
    #[error("the store is empty: run `totoro-control init` first")]
    Empty,
}

impl App {
    /// The control plane over an initialised store and its trail.
    ///
    /// # Errors
    /// When the store is empty or fails.
    pub fn start(
        config: Config,
        trail: Arc<Trail>,
        secret: ServerSecret,
        ring: KeyRing,
    ) -> Result<Arc<Self>, StartError> {
        let store = trail.store();
        let generation = crate::store::read::<Generation>(&*store, key::GENERATION)?
            .ok_or(StartError::Empty)?
            .value
            .generation;
        let live = Live::new(config.heartbeat_interval.0);
        let stopping = watch::channel(false).0;
        let ring = RwLock::new(ring);
        Ok(Arc::new(App {
            config,
            metrics: Metrics::new(store.meter()),
            store,
            trail,
            secret,
            ring,
            live,
            crowd: Crowd::default(),
            retired: Retired::default(),
            unreached: Unreached::default(),
            used: Used::default(),
            rotating: tokio::sync::Mutex::default(),
            bans: BanIndex::default(),
            decoded: Decoded::default(),
            callback: Callback::default(),
            listed: Listed::default(),
            turns: Turns::default(),
            generation,
            stopping,
        }))
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Unix seconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.now_ms() / 1000
    }

    /// A node's newest policy revision. Read it *before* what it is to vouch for: a ticket may
    /// claim less than it carries, never more.
    ///
    /// # Errors
    /// When the store fails.
    pub fn policy_revision(&self, node: &str) -> Result<Revision, StoreError> {
        let head = self.store.revision(key::policy_head(node).as_bytes())?;
        Ok(Revision {
            generation: self.generation,
            rev: head.unwrap_or(0),
        })
    }

    /// The ticket keys.
    fn ring(&self) -> std::sync::RwLockReadGuard<'_, KeyRing> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The public halves of the live ticket keys.
    #[must_use]
    pub fn ticket_keys(&self) -> Vec<totoro_api::wire::push::TicketKey> {
        self.ring().published(self.now())
    }

    /// Asks everything that waits to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Becomes true when the process is asked to end.
    #[must_use]
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }
}
