//! Changing a node: drain, disable, public or private, pool, limits.

use totoro_api::Reason;
use totoro_api::wire::event::kind;
use totoro_api::wire::node::{ChangeNode, ChangeSelf, Node};

use super::idempotency::{Idempotency, WHOLE};
use super::invite_change::IfMatch;
use super::{App, Caller, Failure, Reach, node};
use crate::audit;
use crate::push;
use crate::records::{Change, NodeRecord, key};

impl App {
    /// Changes a node; what is absent stays.
    ///
    /// # Errors
    /// `not_found`, a stale or missing version, malformed fields, `conflict`.
    pub async fn change_node(
        &self,
        caller: &Caller,
        id: &str,
        version: IfMatch,
        change: &ChangeNode,
        request: Option<Idempotency<'_>>,
    ) -> Result<Node, Failure> {
        Self::checked_key(request)?;
        // What lenders call their requests is nothing to each other.
        let scope = match caller.reach {
            Reach::Node(_) => id,
            Reach::All => WHOLE,
        };
        let (now, now_ms) = (self.now(), self.now_ms());
        self.transact(|tx| {
            let found = tx
                .get::<NodeRecord>(&key::node(id))?
                .ok_or(Reason::NotFound)?;
            version.said(found.revision)?;
            if self.repeated(tx, scope, request, id, now)? {
                return Ok(());
            }
            version.check(found.revision)?;
            let before = found.value;
            let after = apply(before.clone(), change);
            node::check(&after.said)?;
            if after == before {
                return Ok(());
            }
            tx.put(key::node(id), &after)?;
            push::touch(tx, id, &Change::Node)?;
            let drained = after.draining && !before.draining;
            let kind = match caller.reach {
                _ if drained => kind::NODE_DRAINED,
                Reach::Node(_) => kind::NODE_CHANGED,
                Reach::All => kind::ADMIN_NODE_CHANGED,
            };
            let detail = serde_json::to_value(change).unwrap_or_default();
            let event = caller.author.event(kind).node(id).detail(detail);
            Ok(audit::record(tx, event, now_ms)?)
        })
        .await?;
        self.node_view(self.node_record(id)?)
    }

    /// Changes what a lender may change of the own node; what is absent stays.
    ///
    /// # Errors
    /// A stale or missing version, malformed fields, `conflict`.
    pub async fn change_self(
        &self,
        caller: &Caller,
        version: IfMatch,
        change: ChangeSelf,
        request: Option<Idempotency<'_>>,
    ) -> Result<Node, Failure> {
        let node = caller.node(None)?;
        self.change_node(caller, node, version, &change.into(), request)
            .await
    }
}

fn apply(mut record: NodeRecord, change: &ChangeNode) -> NodeRecord {
    fn set<T: Clone>(field: &mut T, to: Option<&T>) {
        if let Some(to) = to {
            field.clone_from(to);
        }
    }
    set(&mut record.draining, change.draining.as_ref());
    set(&mut record.disabled, change.disabled.as_ref());
    let said = &mut record.said;
    set(&mut said.visibility, change.visibility.as_ref());
    set(&mut said.server_addr, change.server_addr.as_ref());
    set(&mut said.pool, change.pool.as_ref());
    set(&mut said.defaults, change.defaults.as_ref());
    set(&mut said.public_limits, change.public_limits.as_ref());
    set(&mut said.public_max, change.public_max.as_ref());
    set(&mut said.region, change.region.as_ref());
    set(&mut said.isp, change.isp.as_ref());
    set(&mut said.tags, change.tags.as_ref());
    set(&mut said.abuse_contact, change.abuse_contact.as_ref());
    record
}
