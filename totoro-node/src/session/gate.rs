//! What the desk has the kernel do: no more than this, so that its decisions can be tried without
//! one.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use ipnet::IpNet;
use totoro_api::Reason;
use totoro_api::ports::Pool;
use totoro_ebpf::abi;

use crate::kernel::{
    Control, ControlSocket, Kernel, KernelError, LeaseCounts, Refused, Swept, TenantCounts,
};

type Result<T> = std::result::Result<T, KernelError>;

/// Declares the trait, and has the kernel be one by its methods of the same names.
macro_rules! gate {
    ($($(#[$doc:meta])* fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $answer:ty;)*) => {
        /// The kernel side; each call is documented at [`Kernel`].
        pub trait Gate: Send + Sync {
            $($(#[$doc])*
            fn $name(&self $(, $arg: $type)*) -> Result<$answer>;)*
        }

        impl Gate for Kernel {
            $(fn $name(&self $(, $arg: $type)*) -> Result<$answer> {
                Kernel::$name(self $(, $arg)*)
            })*
        }
    };
}

gate! {
    /// Replaces the set of lent ports.
    fn set_pool(&self, pool: &Pool) -> ();
    /// What is guarded.
    fn pool(&self) -> Pool;
    /// Has the whole pool refuse what is new.
    fn set_hold(&self, reason: Option<Reason>) -> ();
    /// Creates or changes a tenant's policy.
    fn put_tenant(&self, tenant: u32, policy: &abi::Tenant) -> ();
    /// Forgets tenants and their counts.
    fn remove_tenants(&self, tenants: &[u32]) -> ();
    /// Forgets the canary.
    fn remove_canary(&self) -> ();
    /// Ends a tenant's user connections and flows.
    fn destroy_tenant(&self, tenant: u32) -> usize;
    /// Tenants now.
    fn tenants(&self) -> Vec<(u32, abi::Tenant)>;
    /// One tenant's counts.
    fn counts(&self, tenant: u32) -> TenantCounts;
    /// All tenants' counts.
    fn all_counts(&self) -> HashMap<u32, TenantCounts>;
    /// Opens or changes a lease.
    fn put_lease(&self, key: abi::PortKey, lease: &abi::Lease) -> ();
    /// Closes a lease; what was counted on it is the answer, and stays.
    fn remove_lease(&self, key: abi::PortKey) -> Option<LeaseCounts>;
    /// Closes leases together; what was counted on each is the answer, and stays.
    fn remove_leases(&self, keys: &[abi::PortKey]) -> Vec<Option<LeaseCounts>>;
    /// What was counted on a lease.
    fn lease_counts(&self, tenant: u32, key: abi::PortKey) -> LeaseCounts;
    /// What passed a lease.
    fn traffic(&self, tenant: u32, key: abi::PortKey) -> abi::Traffic;
    /// What is counted on every port.
    fn port_usage(&self) -> Vec<(abi::PortKey, abi::PortUsage)>;
    /// Tenants and ports that anything is counted of, leased or not.
    fn counted(&self) -> Vec<(u32, abi::PortKey)>;
    /// Forgets what was counted on a closed lease.
    fn forget_lease(&self, tenant: u32, key: abi::PortKey) -> ();
    /// Leases now.
    fn leases(&self) -> Vec<(abi::PortKey, abi::Lease)>;
    /// Replaces all bans.
    fn set_bans(&self, wanted: &BTreeMap<IpNet, u64>) -> ();
    /// frpc's connection from an address.
    fn control_socket(&self, client: SocketAddr) -> Option<ControlSocket>;
    /// frpc's connection whose websocket has this stamp.
    fn stamped_control(&self, stamp: u64) -> Option<ControlSocket>;
    /// All connections to frps's own port.
    fn controls(&self) -> Vec<Control>;
    /// Ends frpc's connection.
    fn destroy_control(&self, socket: &ControlSocket) -> bool;
    /// All refusal counters, sorted by tenant.
    fn refused(&self) -> Vec<Refused>;
    /// Mends what events should have done.
    fn sweep(&self) -> Swept;
}
