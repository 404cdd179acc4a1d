//! What nodes reported last, in memory: heartbeats are many and each replaces the one before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use totoro_api::wire::node::Heartbeat;

/// How often two installations of one node are told of.
const TELL_TWINS: Duration = Duration::from_secs(60);
/// Missed heartbeats that make a node offline.
const MISSED: u32 = 3;

/// The last heartbeat of one node.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) heartbeat: Arc<Heartbeat>,
}

/// All nodes that have reported since the start.
pub(super) struct Live {
    started: Instant,
    patience: Duration,
    /// Locked for map look-ups only, never across an await.
    nodes: Mutex<HashMap<String, Seen>>,
    /// Nodes that are reported by two installations: when that was last told, and how often it
    /// happened since.
    twins: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Live {
    pub(super) fn new(interval: Duration) -> Self {
        let patience = interval.saturating_mul(MISSED);
        Live {
            started: Instant::now(),
            patience,
            nodes: Mutex::default(),
            twins: Mutex::default(),
        }
    }

    /// Keeps a heartbeat.
    pub(super) fn report(&self, node: &str, heartbeat: Heartbeat) {
        let seen = Seen {
            at: Instant::now(),
            heartbeat: Arc::new(heartbeat),
        };
        self.lock().insert(node.to_owned(), seen);
    }

    /// The last heartbeat, if there was one since the start.
    pub(super) fn last(&self, node: &str) -> Option<Seen> {
        self.lock().get(node).cloned()
    }

    /// Notes a heartbeat of another installation than the enrolled one. Once a minute it is time to
    /// tell: how many there were since the last time.
    pub(super) fn twin(&self, node: &str) -> Option<u64> {
        let mut twins = self.twins.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let Some((told, count)) = twins.get_mut(node) else {
            twins.insert(node.to_owned(), (now, 0));
            return Some(1);
        };
        *count += 1;
        if now.duration_since(*told) < TELL_TWINS {
            return None;
        }
        *told = now;
        Some(std::mem::take(count))
    }

    /// Forgets a node that is no more.
    pub(super) fn forget(&self, node: &str) {
        self.lock().remove(node);
        let mut twins = self.twins.lock().unwrap_or_else(PoisonError::into_inner);
        twins.remove(node);
    }

    /// Whether heartbeats arrive.
    pub(super) fn is_online(&self, node: &str) -> bool {
        self.last(node)
            .is_some_and(|seen| seen.at.elapsed() <= self.patience)
    }

    /// Whether enough time has passed to call it offline: after a start of the control plane every
    /// node gets as long as one that was just seen.
    pub(super) fn is_lost(&self, node: &str) -> bool {
        let since = self.last(node).map_or(self.started, |seen| seen.at);
        since.elapsed() > self.patience
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
