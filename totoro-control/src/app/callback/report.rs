//! What is shown of a node at grade `callback`: nobody reports it, the store has it.

use std::collections::BTreeMap;

use totoro_api::frpc::host_port;
use totoro_api::ports::Protocol;
use totoro_api::wire::node::{LeaseUsage, SessionUsage, TenantUsage};

use super::table::ports;
use crate::app::App;
use crate::audit::rfc3339_ms;
use crate::records::NodeRecord;
use crate::store::StoreError;

impl App {
    /// What a tenant does on the node now.
    pub(in crate::app) fn callback_usage(
        &self,
        node: &NodeRecord,
        tenant: &str,
    ) -> Result<TenantUsage, StoreError> {
        let sessions = self.callback_sessions(&node.id)?.into_iter();
        let ours = sessions.filter(|session| session.tenant == tenant);
        let address = node.said.server_addr.first();
        let address = address.and_then(|address| host_port(address));
        let address = address.map_or("", |(host, _)| host);
        let ports = ports(&*self.store, &node.id)?;
        let leases = ports.leases().iter();
        Ok(TenantUsage {
            tenant: tenant.to_owned(),
            refused: self.refused_of(&node.id, tenant),
            sessions: ours
                .map(|session| SessionUsage {
                    id: session.id,
                    client: session.client,
                    since: session.since,
                    frpc_version: session.frpc_version,
                })
                .collect(),
            leases: leases
                .filter(|(_, lease)| *lease.tenant == *tenant)
                .map(|((protocol, port), lease)| LeaseUsage {
                    proxy: lease.name().to_owned(),
                    protocol: protocol.to_string(),
                    address: address.to_owned(),
                    port: *port,
                    since: rfc3339_ms(lease.since_ms),
                })
                .collect(),
            ..TenantUsage::default()
        })
    }

    /// The ports that somebody new could have, by protocol.
    pub(in crate::app) fn callback_free(
        &self,
        node: &NodeRecord,
    ) -> Result<BTreeMap<String, u32>, StoreError> {
        let (ports, now_ms) = (ports(&*self.store, &node.id)?, self.now_ms());
        let free = |protocol: Protocol| {
            let free = ports.free(protocol, &node.said.pool, now_ms);
            let free = u32::try_from(free).unwrap_or(u32::MAX);
            (protocol.to_string(), free)
        };
        Ok(Protocol::ALL.into_iter().map(free).collect())
    }
}
