//! Whether a node is online and what is wrong with it, as the trail tells it: each turn once.

use serde_json::{Value, json};
use totoro_api::Reason;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::Heartbeat;

use super::{App, Caller, Failure};
use crate::audit;
use crate::records::{EnrolmentRecord, NodeRecord, PresenceRecord, key};
use crate::store::{StoreError, Tx};

/// Problems that are told, and how much of each: they must fit an event.
const MAX_PROBLEMS: (usize, usize) = (5, 100);

impl App {
    /// Takes note of a heartbeat that has just been kept: the first after an absence leaves
    /// `node.online`, new problems leave `node.degraded`, their end `node.online`; the first ever
    /// burns the enrolment token.
    pub(super) async fn note_presence(
        &self,
        caller: &Caller,
        node: &NodeRecord,
    ) -> Result<(), Failure> {
        let now = self.presence_of(node)?;
        let at = key::presence(&node.id);
        let stands = self.presence_now(&node.id)?;
        // A daemon that reports is the authority again, whoever was it before.
        if node.key_used && !node.callback && stands.is_some_and(|stands| *stands == now) {
            return Ok(());
        }
        let seen = self.live.last(&node.id);
        let versions = seen
            .map(|seen| versions(&seen.heartbeat))
            .unwrap_or_default();
        let now_ms = self.now_ms();
        self.transact(|tx| {
            take_over(tx, &node.id)?;
            let before = tx.get::<PresenceRecord>(&at)?;
            let before = before.map(|before| before.value).unwrap_or_default();
            if before == now {
                return Ok(());
            }
            tx.put(&at, &now)?;
            let event = |kind| caller.author.event(kind).node(&node.id);
            if !before.online {
                audit::record(
                    tx,
                    event(kind::NODE_ONLINE).detail(versions.clone()),
                    now_ms,
                )?;
            }
            if before.problems == now.problems {
                return Ok(());
            }
            let detail = json!({ "problems": now.problems, "before": before.problems });
            let kind = match now.problems.is_empty() {
                true => kind::NODE_ONLINE,
                false => kind::NODE_DEGRADED,
            };
            Ok(audit::record(tx, event(kind).detail(detail), now_ms)?)
        })
        .await?;
        Ok(())
    }

    /// Whether an installation holds the node now. After a start of the control plane each has as long to
    /// report as one that was just heard of. One that has not used its key yet has nothing to lose.
    pub(super) fn lives(&self, node: &NodeRecord) -> Result<bool, StoreError> {
        let calls = node.callback.then(|| self.ping_patience());
        let presence = self.presence_now(&node.id)?;
        let online = presence.is_some_and(|presence| presence.online);
        Ok(node.key_used && online && !self.live.is_lost(&node.id, calls))
    }

    fn presence_of(&self, node: &NodeRecord) -> Result<PresenceRecord, StoreError> {
        let applied = self.applied_now(&node.id)?.unwrap_or_default();
        let (_, problems) = self.node_state(node, &applied);
        let short = |problem: String| problem.chars().take(MAX_PROBLEMS.1).collect();
        Ok(PresenceRecord {
            online: true,
            problems: problems
                .into_iter()
                .take(MAX_PROBLEMS.0)
                .map(short)
                .collect(),
        })
    }
}

/// A daemon reports with the node's key: the control plane decides for it no longer, and the token
/// that it was enrolled with has done its work.
fn take_over(tx: &mut Tx<'_>, node: &str) -> Result<(), Failure> {
    let found = tx.get::<NodeRecord>(&key::node(node))?;
    let before = found.ok_or(Reason::NotAuthorized)?.value;
    let mut node = before.clone();
    node.callback = false;
    if !node.key_used {
        node.key_used = true;
        // One made since then is another's.
        if let Some(token) = &node.enrolment
            && let Some(record) = tx.get::<EnrolmentRecord>(&key::enrolment(token))?
            && record.value.used_for == node.key
        {
            tx.delete(key::enrolment(token));
            node.enrolment = None;
        }
    }
    if node != before {
        tx.put(key::node(&node.id), &node)?;
    }
    Ok(())
}

fn versions(heartbeat: &Heartbeat) -> Value {
    json!({
        "grade": heartbeat.grade,
        "agent": heartbeat.agent_version,
        "frps": heartbeat.frps_version,
        "kernel": heartbeat.kernel_version,
        "boot": heartbeat.boot,
    })
}
