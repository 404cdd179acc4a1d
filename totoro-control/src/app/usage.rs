//! What a code's holder uses, as the node last reported it.

use totoro_api::ticket::rfc3339;
use totoro_api::wire::invite::Usage;
use totoro_api::wire::node::TenantUsage;

use super::node::unenforced;
use super::{App, Failure};
use crate::records::{AppliedRecord, NodeRecord, key};
use crate::store::{StoreError, read};

impl App {
    /// The usage of this code's invite, whatever its state: who was cut may see why.
    ///
    /// # Errors
    /// `invite_unknown`.
    pub fn usage(&self, code: &str) -> Result<Usage, Failure> {
        let holder = self
            .invite_by_code(code)
            .map_err(|refused| refused.failure)?;
        let (age_s, usage) = self.tenant_usage(&holder.node, &holder.invite.id)?;
        let grade = self.grade_of(&holder.node);
        let applied = read::<AppliedRecord>(&*self.store, &key::applied(&holder.node.id))?;
        let applied = applied.map(|record| record.value).unwrap_or_default();
        let (node_state, _) = self.node_state(&holder.node, &applied);
        Ok(Usage {
            node_state: Some(node_state),
            state: holder.invite.state_at(self.now()),
            expires_at: holder.invite.expires_at.map(rfc3339),
            limits: holder.invite.limits.over(&holder.node.said.defaults),
            invite: holder.invite.id.clone(),
            usage,
            age_s,
            unenforced: unenforced(grade),
            grade,
        })
    }

    /// What a tenant does on a node and how old that figure is, seconds; nothing when the node has
    /// not spoken of it since the start.
    ///
    /// # Errors
    /// When the store fails, which has it where no daemon reports it.
    pub(super) fn tenant_usage(
        &self,
        node: &NodeRecord,
        tenant: &str,
    ) -> Result<(u64, TenantUsage), StoreError> {
        if node.callback {
            return Ok((0, self.callback_usage(node, tenant)?));
        }
        let nothing = || TenantUsage {
            tenant: tenant.to_owned(),
            ..TenantUsage::default()
        };
        let Some(seen) = self.live.last(&node.id) else {
            return Ok((0, nothing()));
        };
        let found = seen
            .heartbeat
            .tenants
            .iter()
            .find(|usage| usage.tenant == tenant)
            .cloned();
        let found = found.unwrap_or_else(nothing);
        Ok((seen.at.elapsed().as_secs(), found))
    }
}
