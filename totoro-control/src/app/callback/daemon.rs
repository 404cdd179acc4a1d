//! Whether a node's daemon lives, and that its frps was heard of.

use std::time::Duration;

use totoro_api::Reason;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::Grade;

use super::Frps;
use crate::app::live::Seen;
use crate::app::{App, Failure};
use crate::audit;
use crate::records::{NodeRecord, PresenceRecord, key};

/// How long a call stands for those that follow it.
const NOTED: Duration = Duration::from_millis(250);

impl App {
    /// Refuses while the node's daemon lives: it is the authority then, and what were leased here it
    /// would not know.
    pub(super) fn check_daemon(&self, frps: &Frps<'_>) -> Result<(), Failure> {
        if !self.daemon_lives(&frps.node)? {
            return Ok(());
        }
        Err(Failure::refused(
            Reason::Conflict,
            "the daemon of this node is live and decides here: have frps ask it (totoro-node \
             frps-config), or stop it and run `totoro-control node enroll-callback`",
        ))
    }

    /// Whether the node's daemon lives, or may live and just had no time to report since the start.
    pub(super) fn daemon_lives(&self, node: &NodeRecord) -> Result<bool, Failure> {
        if self.live.is_online(&node.id) {
            return Ok(true);
        }
        if node.callback || self.live.is_silent(&node.id) {
            return Ok(false);
        }
        let applied = self.store.revision(key::applied(&node.id).as_bytes())?;
        Ok(applied.is_some())
    }

    /// Notes that the node's frps asked. The first time after an absence leaves `node.online`, and
    /// makes the node one of grade `callback`.
    pub(super) async fn note_call(&self, frps: &Frps<'_>) -> Result<(), Failure> {
        let id = &frps.node.id;
        // Whatever could have changed in a moment is noted with the next call.
        let known = frps.node.callback && frps.node.key_used;
        if known && self.live.called_lately(id, NOTED) {
            return Ok(());
        }
        if self.daemon_lives(&frps.node)? {
            return Ok(());
        }
        // Before it is written, or it could be found lost between the two.
        self.live.called(id);
        let presence = self.presence_now(id)?;
        if known && presence.is_some_and(|presence| presence.online) {
            return Ok(());
        }
        let (at, now_ms) = (key::presence(id), self.now_ms());
        self.transact(|tx| {
            let found = tx.get::<NodeRecord>(&key::node(id))?;
            let mut node = found.ok_or(Reason::NotAuthorized)?.value;
            if !node.callback || !node.key_used {
                (node.callback, node.key_used) = (true, true);
                tx.put(key::node(id), &node)?;
            }
            let online = |record: crate::store::Record<PresenceRecord>| record.value.online;
            if tx.get(&at)?.is_some_and(online) {
                return Ok(());
            }
            let now = PresenceRecord {
                online: true,
                problems: Vec::new(),
            };
            tx.put(&at, &now)?;
            let event = frps.author().event(kind::NODE_ONLINE).node(id);
            let detail = serde_json::json!({ "grade": Grade::Callback });
            Ok(audit::record(tx, event.detail(detail), now_ms)?)
        })
        .await?;
        Ok(())
    }

    /// What the node's daemon last reported, where it has one.
    pub(in crate::app) fn reported(&self, node: &NodeRecord) -> Option<Seen> {
        self.live.last(&node.id).filter(|_| !node.callback)
    }

    /// How a node's limits are enforced.
    pub(in crate::app) fn grade_of(&self, node: &NodeRecord) -> Grade {
        let seen = self.reported(node);
        seen.map_or(Grade::default(), |seen| seen.heartbeat.grade)
    }

    /// Whether the node's frps is heard of; of a node with a daemon, whether that is.
    pub(in crate::app) fn is_heard(&self, node: &NodeRecord) -> bool {
        if !node.callback {
            return self.live.is_online(&node.id);
        }
        let last = self.live.last_call(&node.id);
        last.is_some_and(|ago| ago <= self.ping_patience())
    }

    /// How long ago that was.
    pub(in crate::app) fn heard_ago(&self, node: &NodeRecord) -> Option<Duration> {
        if node.callback {
            return self.live.last_call(&node.id);
        }
        self.live.last(&node.id).map(|seen| seen.at.elapsed())
    }
}
