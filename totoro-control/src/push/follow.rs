//! Following one node's policy: what a long poll does once, and a stream again and again.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use totoro_api::ticket::Revision;
use totoro_api::wire::push::DesiredState;

use crate::app::{App, Failure};
use crate::records::key;
use crate::store::StoreError;

/// Someone who follows a node's policy. It is level-triggered: who is slow gets what is newest, not
/// each change, so one that waits costs the same however much happens.
pub(crate) struct Follower {
    app: Arc<App>,
    node: String,
    /// The keyed hash of the key that was shown.
    key: String,
    /// What was handed out last.
    stands: Option<Revision>,
    changes: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
}

/// What there is for one who follows.
pub(crate) enum Next {
    /// Something newer.
    State(Box<DesiredState>),
    /// Nothing came in time.
    Quiet,
    /// The process is asked to end.
    Stopping,
    /// The key is the node's no more, or there is no such node any more.
    Gone,
}

impl App {
    /// Follows the policy of the node whose key this is, from what it stands at.
    ///
    /// # Errors
    /// `not_authorized`, whatever is wrong with the key.
    pub(crate) fn follow(
        self: &Arc<Self>,
        text: &str,
        stands: Option<Revision>,
    ) -> Result<Follower, Failure> {
        let node = self.node_by_key(text)?.id.clone();
        let key = self.node_key_hash(blake3::hash(text.as_bytes()).to_hex().as_str());
        Ok(Follower {
            changes: self.store.watch(key::policy(&node).as_bytes()),
            stopping: self.stopping(),
            app: Arc::clone(self),
            node,
            key,
            stands,
        })
    }
}

impl Follower {
    /// The node that is followed.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// Waits until there is something newer than what was handed out last. The key is looked at
    /// again before anything is handed out, and whenever the time is over.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn next(&mut self, until: Instant) -> Result<Next, StoreError> {
        loop {
            // Marked before the look, so nothing between look and wait is missed.
            self.changes.borrow_and_update();
            match self.app.node_of_hash(&self.key)? {
                Some(node) if node.id == self.node => {}
                _ => return Ok(Next::Gone),
            }
            if let Some(state) = self.app.newer(&self.node, self.stands)? {
                self.stands = Some(state.revision);
                return Ok(Next::State(Box::new(state)));
            }
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() {
                    return Ok(Next::Stopping);
                },
                _ = self.stopping.wait_for(|&stop| stop) => return Ok(Next::Stopping),
                () = sleep_until(until) => return Ok(Next::Quiet),
            }
        }
    }
}
