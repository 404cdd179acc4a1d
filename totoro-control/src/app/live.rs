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
    /// When the frps of nodes without a daemon last asked.
    calls: Mutex<HashMap<String, Instant>>,
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
            calls: Mutex::default(),
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

    /// Whether the daemon is silent: no heartbeat, and time enough for one since the start.
    pub(super) fn is_silent(&self, node: &str) -> bool {
        let since = self.last(node).map_or(self.started, |seen| seen.at);
        since.elapsed() > self.patience
    }

    /// The node's frps asked.
    pub(super) fn called(&self, node: &str) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.insert(node.to_owned(), Instant::now());
    }

    /// Whether the node's frps asked within this time, and it was noted.
    pub(super) fn called_lately(&self, node: &str, within: Duration) -> bool {
        self.last_call(node).is_some_and(|ago| ago < within)
    }

    /// How long ago the node's frps last asked, since the start.
    pub(super) fn last_call(&self, node: &str) -> Option<Duration> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.get(node).map(Instant::elapsed)
    }

    /// Whether enough time has passed to call it offline: after a start of the control plane every
    /// node gets as long as one that was just seen.
    /// `calls` is how long the frps of a node without a daemon may say nothing.
    pub(super) fn is_lost(&self, node: &str, calls: Option<Duration>) -> bool {
        let Some(patience) = calls else {
            return self.is_silent(node);
        };
        let since = self.last_call(node).unwrap_or(self.started.elapsed());
        since > patience && !self.is_online(node)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
