//! What the node remembers of tenants, sessions, tickets. Times are Unix milliseconds by the
//! control plane's clock unless said otherwise.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use totoro_api::decide::{Holder, Voucher};
pub use totoro_api::decide::{PUBLIC, SeenTicket as Ticket, invite_of, site, source, tenant_of};

use crate::kernel::ControlSocket;

/// The tenant that all anonymous tenants are charged to together.
pub const ALL_PUBLIC: u32 = 1;
/// The first number of an ordinary tenant.
pub const FIRST_TENANT: u32 = 2;
/// A tenant that has logged in at least once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its number in the kernel: never reused.
    pub number: u32,
    /// From users over leases that are closed, IP bytes.
    #[serde(default)]
    pub bytes_in: u64,
    /// To users over leases that are closed, IP bytes.
    #[serde(default)]
    pub bytes_out: u64,
    /// When it last had a session.
    #[serde(default)]
    pub seen_ms: i64,
}

/// Tenants by their ids, which their sessions and tickets share.
pub(super) type Tenants = BTreeMap<Arc<str>, Tenant>;

/// A tenant's id, as its record has it if there is one.
pub(super) fn shared(tenants: &Tenants, id: &str) -> Arc<str> {
    let known = tenants.get_key_value(id);
    known.map_or_else(|| id.into(), |(id, _)| Arc::clone(id))
}

/// One frpc login under a ticket, and its resumptions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// What the audit calls it. (The run_id is a bearer secret in frp.)
    pub id: String,
    /// The tenant's id.
    pub tenant: Arc<str>,
    /// What the newest ticket vouches for.
    pub voucher: Arc<Voucher>,
    /// Changes with each Login, and comes back in every later request: tells a late request of a
    /// replaced connection from one of its successor.
    pub nonce: String,
    /// frpc's `user`.
    pub user: String,
    /// Where frpc comes from.
    pub client: SocketAddr,
    /// The node's end of frpc's connection.
    pub local: SocketAddr,
    /// That socket's cookie.
    pub cookie: u64,
    /// When it was opened.
    pub opened_ms: i64,
    /// From when its longest life counts: when a newer ticket was bound.
    pub begun_ms: i64,
    /// When frpc's connection ended; `None` while it lives.
    pub lost_ms: Option<i64>,
    /// frpc's version.
    pub frpc_version: String,
    /// From users over leases that are closed, IP bytes.
    pub bytes_in: u64,
    /// To users over leases that are closed, IP bytes.
    pub bytes_out: u64,
    /// TCP user connections so far.
    pub conns: u64,
}

impl Session {
    /// The invite, unless the session is anonymous.
    #[must_use]
    pub fn invite(&self) -> Option<&str> {
        invite_of(&self.voucher.grant)
    }

    /// As events about its leases name it.
    pub(super) fn as_holder(&self) -> Holder<'_> {
        Holder {
            session: &self.id,
            invite: self.invite(),
            client: self.client,
        }
    }

    /// frpc's connection.
    #[must_use]
    pub const fn control(&self) -> ControlSocket {
        ControlSocket {
            cookie: self.cookie,
            client: self.client,
            local: self.local,
        }
    }

    /// Whether frpc's connection lives, as far as is known.
    #[must_use]
    pub const fn connected(&self) -> bool {
        self.lost_ms.is_none()
    }
}
