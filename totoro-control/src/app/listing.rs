//! Public nodes are listed with the addresses that the control plane has reached once: else the list
//! could aim every visitor at somebody who lends nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use totoro_api::frpc::host_port;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::Visibility;

use super::{App, Failure};
use crate::audit::{self, Author};
use crate::reach::probe;
use crate::records::{NodeRecord, ReachRecord, key};
use crate::store::{StoreError, read, records};

/// How often it is looked for what is due.
const TICK: Duration = Duration::from_secs(1);
/// The wait after a first failure, and the longest: it doubles.
const WAITS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));
/// Probes at once.
const AT_ONCE: usize = 16;

/// A node's id and one of its addresses.
type Place = (String, String);

/// Why addresses are not reached.
#[derive(Default)]
pub(super) struct Unreached(Mutex<HashMap<Place, String>>);

impl Unreached {
    fn set(&self, place: &Place, why: Option<String>) {
        let mut unreached = self.lock();
        match why {
            Some(why) => unreached.insert(place.clone(), why),
            None => unreached.remove(place),
        };
    }

    fn why(&self, node: &str, address: &str) -> Option<String> {
        let place = (node.to_owned(), address.to_owned());
        self.lock().get(&place).cloned()
    }

    fn keep(&self, places: &HashMap<Place, Attempt>) {
        self.lock().retain(|place, _| places.contains_key(place));
    }

    /// Locked for map look-ups only, never across an await.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Place, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address that is still to be reached.
#[derive(Clone, Copy)]
struct Attempt {
    due: Instant,
    wait: Duration,
}

impl App {
    /// The addresses of a node that visitors may be sent to.
    pub(super) fn reached(&self, node: &NodeRecord) -> Result<Vec<String>, StoreError> {
        if !self.config.listing.probe {
            return Ok(node.said.server_addr.clone());
        }
        let found = read::<ReachRecord>(&*self.store, &key::reach(&node.id))?;
        let reached = found.map(|found| found.value.addresses).unwrap_or_default();
        let ours = node.said.server_addr.iter();
        Ok(ours.filter(|at| reached.contains(at)).cloned().collect())
    }

    /// Why addresses of a public node are not listed, one line each.
    pub(super) fn unlisted(&self, node: &NodeRecord) -> Result<Vec<String>, StoreError> {
        if node.said.visibility != Visibility::Public {
            return Ok(Vec::new());
        }
        let reached = self.reached(node)?;
        let unreached = node
            .said
            .server_addr
            .iter()
            .filter(|at| !reached.contains(at));
        let line = |address: &String| {
            let why = self.unreached.why(&node.id, address);
            let why = why
                .as_deref()
                .unwrap_or("not tried yet: the node must report first");
            format!("{address}: {why}")
        };
        Ok(unreached.map(line).collect())
    }

    /// Connects to what is not reached yet, until the process is asked to end.
    pub(super) async fn keep_reaching(self: Arc<Self>) {
        if !self.config.listing.probe {
            return;
        }
        let mut stopping = self.stopping();
        let mut changes = self.store.watch(key::NODES.as_bytes());
        changes.mark_changed();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut attempts = HashMap::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stopping.wait_for(|&stop| stop) => return,
            }
            let round = async {
                if changes.has_changed().unwrap_or(false) {
                    changes.borrow_and_update();
                    attempts = self.to_reach(&attempts)?;
                    self.unreached.keep(&attempts);
                }
                self.try_due(&mut attempts).await
            };
            if let Err(failure) = round.await {
                let error = &failure as &dyn std::error::Error;
                tracing::error!(error, "reaching nodes failed");
            }
        }
    }

    /// What is still to be reached; what is known of it goes on.
    fn to_reach(
        &self,
        before: &HashMap<Place, Attempt>,
    ) -> Result<HashMap<Place, Attempt>, StoreError> {
        let first = Attempt {
            due: Instant::now(),
            wait: WAITS.0,
        };
        let mut attempts = HashMap::new();
        for (id, node) in records::<NodeRecord>(&*self.store, key::NODES)? {
            let node = node.value;
            if node.said.visibility != Visibility::Public || node.disabled {
                continue;
            }
            let reached = self.reached(&node)?;
            for address in node.said.server_addr {
                if !reached.contains(&address) {
                    let place = (id.clone(), address);
                    let attempt = before.get(&place).copied().unwrap_or(first);
                    attempts.insert(place, attempt);
                }
            }
        }
        Ok(attempts)
    }

    fn is_up(&self, node: &str) -> bool {
        self.node_record(node)
            .is_ok_and(|node| self.is_heard(&node.value))
    }

    /// Tries what is due, of nodes that report.
    async fn try_due(&self, attempts: &mut HashMap<Place, Attempt>) -> Result<(), Failure> {
        let now = Instant::now();
        let due = attempts
            .iter()
            .filter(|((node, _), attempt)| attempt.due <= now && self.is_up(node));
        let due: Vec<Place> = due.map(|(place, _)| place.clone()).take(AT_ONCE).collect();
        let listing = self.config.listing;
        let tries = due.into_iter().map(|place| async move {
            let tried = match host_port(&place.1) {
                Some((host, port)) => probe(host, port, listing).await,
                None => Err("is no host:port".to_owned()),
            };
            (place, tried)
        });
        for (place, tried) in join_all(tries).await {
            match tried {
                Ok(()) => {
                    self.note_reached(&place).await?;
                    self.unreached.set(&place, None);
                    attempts.remove(&place);
                }
                Err(why) => {
                    tracing::debug!(node_id = place.0, address = place.1, why, "not reached");
                    self.unreached.set(&place, Some(why));
                    if let Some(attempt) = attempts.get_mut(&place) {
                        attempt.due = Instant::now() + attempt.wait;
                        attempt.wait = (attempt.wait * 2).min(WAITS.1);
                    }
                }
            }
        }
        Ok(())
    }

    /// Keeps that an address was reached, if it is still the node's.
    async fn note_reached(&self, (node, address): &Place) -> Result<(), Failure> {
        let now_ms = self.now_ms();
        self.transact(|tx| {
            let Some(record) = tx.get::<NodeRecord>(&key::node(node))? else {
                return Ok(());
            };
            let ours = record.value.said.server_addr;
            let at = key::reach(node);
            let before = tx.get::<ReachRecord>(&at)?;
            let mut addresses = before
                .map(|before| before.value.addresses)
                .unwrap_or_default();
            addresses.retain(|kept| ours.contains(kept));
            if !ours.contains(address) || addresses.contains(address) {
                return Ok(());
            }
            addresses.push(address.clone());
            tx.put(&at, &ReachRecord { addresses })?;
            let event = Author::system().event(kind::NODE_REACHED).node(node);
            let detail = json!({ "address": address });
            Ok(audit::record(tx, event.detail(detail), now_ms)?)
        })
        .await?;
        Ok(())
    }
}
