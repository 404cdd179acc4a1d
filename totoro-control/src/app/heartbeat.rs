//! Heartbeats and what a node says that it has applied.

use serde_json::json;
use totoro_api::Reason;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::{Heartbeat, HeartbeatAnswer};
use totoro_api::wire::push::Applied;

use super::{App, Caller, Failure};
use crate::audit;
use crate::records::{AppliedRecord, EnrolmentRecord, NodeRecord, PresenceRecord, key};
use crate::store::{Record, read};

/// Ticket keys that a node may name; more than a ring ever has.
const MAX_KEYS: usize = 16;

impl App {
    /// Keeps a heartbeat. The first after an absence leaves `node.online`; the first ever burns the
    /// enrolment token.
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
        let now_ms = self.now_ms();
        let seen = self.live.last(&node.id);
        let presence = read::<PresenceRecord>(&*self.store, &key::presence(&node.id))?;
        if !node.key_used || presence.is_none_or(|record| !record.value.online) {
            self.transact(|tx| {
                let mut node = tx
                    .get::<NodeRecord>(&key::node(&node.id))?
                    .ok_or(Reason::NotAuthorized)?
                    .value;
                if !node.key_used {
                    node.key_used = true;
                    // The token has done its work. One made since then is another's.
                    if let Some(token) = &node.enrolment
                        && let Some(record) = tx.get::<EnrolmentRecord>(&key::enrolment(token))?
                        && record.value.used_for == node.key
                    {
                        tx.delete(&key::enrolment(token));
                        node.enrolment = None;
                    }
                    tx.put(&key::node(&node.id), &node)?;
                }
                let at = key::presence(&node.id);
                if tx
                    .get::<PresenceRecord>(&at)?
                    .is_some_and(|record| record.value.online)
                {
                    return Ok(());
                }
                tx.put(&at, &PresenceRecord { online: true })?;
                let detail = seen.as_ref().map(|seen| {
                    let heartbeat = &seen.heartbeat;
                    json!({
                        "grade": heartbeat.grade,
                        "agent": heartbeat.agent_version,
                        "frps": heartbeat.frps_version,
                        "kernel": heartbeat.kernel_version,
                        "boot": heartbeat.boot,
                    })
                });
                let event = caller.author.event(kind::NODE_ONLINE).node(&node.id);
                Ok(audit::record(
                    tx,
                    event.detail(detail.unwrap_or_default()),
                    now_ms,
                )?)
            })
            .await?;
        }
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
            self.end_kicks(tx, node, record.revision)?;
            Ok(())
        })
        .await?;
        Ok(())
    }
}
