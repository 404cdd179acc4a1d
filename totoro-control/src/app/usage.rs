//! What a code's holder uses, as the node last reported it.

use totoro_api::wire::invite::Usage;
use totoro_api::wire::node::TenantUsage;

use super::{App, Failure};

impl App {
    /// The usage of this code's invite, whatever its state: who was cut may see why.
    ///
    /// # Errors
    /// `invite_unknown`.
    pub fn usage(&self, code: &str) -> Result<Usage, Failure> {
        let holder = self
            .invite_by_code(code)
            .map_err(|refused| refused.failure)?;
        let (age_s, usage) = self.tenant_usage(&holder.node.id, &holder.invite.id);
        Ok(Usage {
            state: holder.invite.state_at(self.now()),
            limits: holder.invite.limits.over(&holder.node.said.defaults),
            invite: holder.invite.id,
            usage,
            age_s,
        })
    }

    /// What a tenant does on a node and how old that figure is, seconds; nothing when the node has
    /// not spoken of it since the start.
    pub(super) fn tenant_usage(&self, node: &str, tenant: &str) -> (u64, TenantUsage) {
        let nothing = || TenantUsage {
            tenant: tenant.to_owned(),
            ..TenantUsage::default()
        };
        let Some(seen) = self.live.last(node) else {
            return (0, nothing());
        };
        let found = seen
            .heartbeat
            .tenants
            .iter()
            .find(|usage| usage.tenant == tenant)
            .cloned();
        (seen.at.elapsed().as_secs(), found.unwrap_or_else(nothing))
    }
}
