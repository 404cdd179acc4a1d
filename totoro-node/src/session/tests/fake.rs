//! A kernel of maps in memory that does as it is told, and fails where it is told to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};

use ipnet::IpNet;
use totoro_api::Reason;
use totoro_api::ports::Pool;
use totoro_ebpf::abi;
use totoro_ebpf::logic::stamp;

use crate::kernel::{
    Control, ControlSocket, KernelError, LeaseCounts, Refused, Swept, TenantCounts, boot_ns,
};
use crate::session::Gate;

type Result<T> = std::result::Result<T, KernelError>;

#[derive(Default)]
pub(super) struct Maps {
    pub(super) tenants: BTreeMap<u32, abi::Tenant>,
    pub(super) leases: BTreeMap<abi::PortKey, abi::Lease>,
    /// By tenant and port.
    pub(super) counts: BTreeMap<(u32, abi::PortKey), LeaseCounts>,
    pub(super) bans: BTreeMap<IpNet, u64>,
    /// The guarded ports.
    pub(super) pool: Pool,
    pub(super) controls: BTreeMap<SocketAddr, Control>,
    /// Cookies of frpc's connections that were destroyed.
    pub(super) destroyed: Vec<u64>,
    /// Calls that fail, as `name` or `name subject`.
    pub(super) failing: BTreeSet<String>,
    /// How often each was called.
    pub(super) calls: BTreeMap<&'static str, usize>,
    /// What a sweep finds.
    pub(super) swept: Swept,
    /// The call that panics.
    pub(super) panicking: Option<&'static str>,
}

#[derive(Default)]
pub(super) struct Fake(Mutex<Maps>);

impl Fake {
    pub(super) fn maps(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().unwrap()
    }

    /// A plain TCP connection from `client` to frps, as old as said.
    pub(super) fn connect(&self, client: SocketAddr, cookie: u64, age_s: u64) {
        let socket = ControlSocket {
            cookie,
            client,
            local: "192.0.2.254:7000".parse().unwrap(),
        };
        let opened_ns = boot_ns().saturating_sub(age_s * 1_000_000_000);
        let control = Control { socket, opened_ns };
        self.maps().controls.insert(client, control);
    }

    fn works(&self, name: &'static str, subject: impl ToString) -> Result<MutexGuard<'_, Maps>> {
        let mut maps = self.maps();
        *maps.calls.entry(name).or_default() += 1;
        if maps.panicking == Some(name) {
            drop(maps);
            panic!("told to panic");
        }
        let subject = subject.to_string();
        if maps.failing.contains(name) || maps.failing.contains(&format!("{name} {subject}")) {
            return Err(KernelError {
                operation: name,
                subject,
                source: "told to fail".into(),
            });
        }
        Ok(maps)
    }
}

impl Gate for Fake {
    fn set_pool(&self, pool: &Pool) -> Result<()> {
        self.works("set_pool", "")?.pool = pool.clone();
        Ok(())
    }

    fn pool(&self) -> Result<Pool> {
        Ok(self.works("pool", "")?.pool.clone())
    }

    fn set_hold(&self, _: Option<Reason>) -> Result<()> {
        self.works("set_hold", "").map(drop)
    }

    fn put_tenant(&self, tenant: u32, policy: &abi::Tenant) -> Result<()> {
        let mut maps = self.works("put_tenant", tenant)?;
        maps.tenants.insert(tenant, *policy);
        Ok(())
    }

    fn remove_tenants(&self, tenants: &[u32]) -> Result<()> {
        let mut maps = self.works("remove_tenants", "")?;
        maps.tenants.retain(|number, _| !tenants.contains(number));
        Ok(())
    }

    fn remove_canary(&self) -> Result<()> {
        self.works("remove_canary", "")?
            .tenants
            .remove(&abi::CANARY);
        Ok(())
    }

    fn destroy_tenant(&self, tenant: u32) -> Result<usize> {
        self.works("destroy_tenant", tenant).map(|_| 0)
    }

    fn tenants(&self) -> Result<Vec<(u32, abi::Tenant)>> {
        let maps = self.works("tenants", "")?;
        Ok(maps.tenants.iter().map(|(k, v)| (*k, *v)).collect())
    }

    fn counts(&self, tenant: u32) -> Result<TenantCounts> {
        self.works("counts", tenant)
            .map(|_| TenantCounts::default())
    }

    fn all_counts(&self) -> Result<HashMap<u32, TenantCounts>> {
        self.works("all_counts", "").map(|_| HashMap::new())
    }

    fn port_usage(&self) -> Result<Vec<(abi::PortKey, abi::PortUsage)>> {
        let maps = self.works("port_usage", "")?;
        let usage = maps.leases.iter().filter_map(|(key, lease)| {
            let counts = maps.counts.get(&(lease.tenant, *key))?;
            let usage = abi::PortUsage {
                conns: counts.live,
                admitted: counts.admitted,
                ..abi::PortUsage::default()
            };
            Some((*key, usage))
        });
        Ok(usage.collect())
    }

    fn put_lease(&self, key: abi::PortKey, lease: &abi::Lease) -> Result<()> {
        let mut maps = self.works("put_lease", key.port)?;
        let before = maps.leases.insert(key, *lease);
        let counts = maps.counts.entry((lease.tenant, key)).or_default();
        if before.is_none_or(|before| before.lease != lease.lease) {
            *counts = LeaseCounts::default();
        }
        Ok(())
    }

    fn remove_lease(&self, key: abi::PortKey) -> Result<Option<LeaseCounts>> {
        let mut maps = self.works("remove_lease", key.port)?;
        let lease = maps.leases.remove(&key);
        let counts = |lease: abi::Lease| maps.counts.get(&(lease.tenant, key)).copied();
        Ok(lease.map(|lease| counts(lease).unwrap_or_default()))
    }

    fn remove_leases(&self, keys: &[abi::PortKey]) -> Result<Vec<Option<LeaseCounts>>> {
        // All are closed, whatever fails.
        let closed: Vec<_> = keys.iter().map(|key| self.remove_lease(*key)).collect();
        closed.into_iter().collect()
    }

    fn lease_counts(&self, tenant: u32, key: abi::PortKey) -> Result<LeaseCounts> {
        let maps = self.works("lease_counts", key.port)?;
        Ok(maps.counts.get(&(tenant, key)).copied().unwrap_or_default())
    }

    fn traffic(&self, tenant: u32, key: abi::PortKey) -> Result<abi::Traffic> {
        let maps = self.works("traffic", key.port)?;
        let counts = maps.counts.get(&(tenant, key)).copied();
        let counts = counts.unwrap_or_default();
        Ok(abi::Traffic {
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            ..abi::Traffic::default()
        })
    }

    fn counted(&self) -> Result<Vec<(u32, abi::PortKey)>> {
        Ok(self.works("counted", "")?.counts.keys().copied().collect())
    }

    fn forget_lease(&self, tenant: u32, key: abi::PortKey) -> Result<()> {
        let mut maps = self.works("forget_lease", key.port)?;
        maps.counts.remove(&(tenant, key));
        Ok(())
    }

    fn leases(&self) -> Result<Vec<(abi::PortKey, abi::Lease)>> {
        let maps = self.works("leases", "")?;
        Ok(maps.leases.iter().map(|(k, v)| (*k, *v)).collect())
    }

    fn set_bans(&self, wanted: &BTreeMap<IpNet, u64>) -> Result<()> {
        self.works("set_bans", "")?.bans.clone_from(wanted);
        Ok(())
    }

    fn control_socket(&self, client: SocketAddr) -> Result<Option<ControlSocket>> {
        let maps = self.works("control_socket", client)?;
        Ok(maps.controls.get(&client).map(|control| control.socket))
    }

    fn stamped_control(&self, stamp: u64) -> Result<Option<ControlSocket>> {
        let maps = self.works("stamped_control", stamp)?;
        let mut sockets = maps.controls.values().map(|control| control.socket);
        Ok(sockets.find(|socket| stamp::of(socket.cookie, 0) == stamp))
    }

    fn controls(&self) -> Result<Vec<Control>> {
        let maps = self.works("controls", "")?;
        Ok(maps.controls.values().copied().collect())
    }

    fn destroy_control(&self, socket: &ControlSocket) -> Result<bool> {
        let mut maps = self.works("destroy_control", socket.cookie)?;
        maps.destroyed.push(socket.cookie);
        let there = maps.controls.len();
        maps.controls
            .retain(|_, control| control.socket.cookie != socket.cookie);
        Ok(maps.controls.len() < there)
    }

    fn refused(&self) -> Result<Vec<Refused>> {
        self.works("refused", "").map(|_| Vec::new())
    }

    fn sweep(&self) -> Result<Swept> {
        self.works("sweep", "").map(|maps| maps.swept)
    }
}
