//! Heartbeats and what a node says that it has applied.

use serde_json::json;
use totoro_api::Reason;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::{Heartbeat, HeartbeatAnswer};
use totoro_api::wire::push::Applied;

use super::{App, Caller, Failure};
use crate::records::{AppliedRecord, NodeRecord, key};
use crate::store::Record;

/// Ticket keys that a node may name; more than a ring ever has.
const MAX_KEYS: usize = 16;

impl App {
    /// Keeps a heartbeat.
    ///
    /// # Errors
    /// `conflict` when another installation than the enrolled one shows the key.
    pub async fn heartbeat(
        &self,
        caller: &Caller,
        node: Record<NodeRecord>,
        heartbeat: Heartbeat,
    ) -> Result<HeartbeatAnswer, Failure> {
        let node = node.value;
        let heartbeat = heartbeat.bounded();
        if heartbeat.instance != node.instance {
            if let Some(count) = self.live.twin(&node.id) {
                let detail = json!({ "instance": heartbeat.instance, "count": count });
                let event = caller.author.event(kind::NODE_CONFLICT).node(&node.id);
                self.record(event.reason(Reason::Conflict).detail(detail))
                    .await?;
            }
            return Err(Failure::refused(
                Reason::Conflict,
                "another installation holds this node: stop this daemon, or enrol it anew",
            ));
        }
        self.live.report(&node.id, heartbeat);
        self.note_presence(caller, &node).await?;
        Ok(HeartbeatAnswer {
            revision: self.policy_revision(&node.id)?,
            now_ms: self.now_ms(),
            interval_s: u32::try_from(self.config.heartbeat_interval.secs()).unwrap_or(u32::MAX),
        })
    }

    /// Keeps what a node has applied; tickets for it are signed only with a key named here.
    ///
    /// # Errors
    /// Malformed fields.
    pub async fn applied(&self, caller: &Caller, applied: &Applied) -> Result<(), Failure> {
        let node = caller.node(None)?;
        let fits = |kid: &String| kid.len() <= 64 && kid.bytes().all(|b| b.is_ascii_graphic());
        if applied.keys.len() > MAX_KEYS || !applied.keys.iter().all(fits) {
            return Err(Failure::malformed("keys: too many, or none of ours"));
        }
        let record = AppliedRecord {
            revision: applied.revision,
            keys: applied.keys.clone(),
            error: applied
                .error
                .as_ref()
                .map(|error| error.chars().take(300).collect()),
        };
        if record.error.is_some() {
            tracing::warn!(
                node_id = node,
                error = record.error,
                "a node could not apply its policy"
            );
        }
        self.transact(|tx| {
            let at = key::applied(node);
            if tx
                .get::<AppliedRecord>(&at)?
                .is_none_or(|stands| stands.value != record)
            {
                tx.put(&at, &record)?;
            }
            // With an error it may be in the node's memory alone: after a crash it must come again.
            if record.error.is_none() {
                self.end_kicks(tx, node, record.revision)?;
            }
            Ok(())
        })
        .await?;
        Ok(())
    }
}
