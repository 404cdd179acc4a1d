//! What the daemon writes and reads: tenants, leases, counts.

use std::collections::{HashMap, HashSet};

use aya::maps::PerCpuValues;
use totoro_api::ports::{Pool, Protocol};
use totoro_ebpf::abi;
use totoro_ebpf::logic::pool;

use super::maps::{Maps, found, gone, patiently};
use super::sweep::First;
use super::{Connection, Context, Kernel, LeaseCounts, Refused, Result, TenantCounts};

/// SYNs per second, and burst, that a lease takes before XDP drops (UDP: new flows).
const LEASE_SYN_RATE: (u32, u32) = (2_000, 8_000);

/// Replaces the pool's bits; frps's own port is guarded too.
pub(super) fn write_pool(maps: &mut Maps, lent: &Pool, bind_port: u16) -> Result<()> {
    let mut words = vec![0u64; abi::POOL_WORDS as usize];
    let mut set = |proto, port| {
        let (word, mask) = pool::bit(proto, port);
        words[word as usize] |= mask;
    };
    for protocol in Protocol::ALL {
        for port in lent.of(protocol).iter() {
            set(protocol.ip_number(), port);
        }
    }
    set(abi::TCP, bind_port);
    for (index, word) in words.iter().enumerate() {
        let index = index as u32;
        // Only what changed: between two writes there is no moment in which a port is open.
        if maps.pool.get(&index, 0).on("read", "POOL")? != *word {
            maps.pool.set(index, *word, 0).on("write", "POOL")?;
        }
    }
    Ok(())
}

impl Kernel {
    /// Replaces the set of lent ports.
    ///
    /// # Errors
    /// When a map can't be written.
    pub fn set_pool(&self, pool: &Pool) -> Result<()> {
        let mut maps = self.shared.maps();
        let bind_port = maps.config.get(&0, 0).on("read", "CONFIG")?.bind_port;
        write_pool(&mut maps, pool, bind_port as u16)
    }

    /// Creates or changes a tenant's policy; its counts go on.
    ///
    /// # Errors
    /// When a map can't be written (it is full: the node has too many tenants).
    pub fn put_tenant(&self, tenant: u32, policy: &abi::Tenant) -> Result<()> {
        patiently(|| {
            let mut maps = self.shared.maps();
            // Counts first: a policy without counts admits nobody, but says the wrong reason.
            let usage = found(maps.usage.get(&tenant, 0)).on("read", "USAGE")?;
            if usage.is_none() {
                let usage = abi::Usage::default();
                maps.usage.insert(tenant, usage, 0).on("write", "USAGE")?;
            }
            let closed = found(maps.flows_closed.get(&tenant, 0)).on("read", "FLOWS_CLOSED")?;
            if closed.is_none() {
                let closed = maps.flows_closed.insert(tenant, 0, 0);
                closed.on("write", "FLOWS_CLOSED")?;
            }
            maps.tenants
                .insert(tenant, policy, 0)
                .on("write", "TENANTS")
        })
    }

    /// Forgets tenants and their counts. Their leases must be gone. Many at once cost little more
    /// than one.
    ///
    /// # Errors
    /// When a map can't be read or written: nobody knows then what of them is still there.
    pub fn remove_tenants(&self, tenants: &[u32]) -> Result<()> {
        if tenants.is_empty() {
            return Ok(());
        }
        let ours: HashSet<u32> = tenants.iter().copied().collect();
        for tenant in &ours {
            let mut maps = self.shared.maps();
            gone(maps.tenants.remove(tenant)).on("write", "TENANTS")?;
            gone(maps.usage.remove(tenant)).on("write", "USAGE")?;
            gone(maps.flows_closed.remove(tenant)).on("write", "FLOWS_CLOSED")?;
        }
        let (mut reasons, mut traffic) = (Vec::new(), Vec::new());
        let tables = &self.shared.tables;
        tables.reasons.each(|key, _| {
            reasons.extend(ours.contains(&key.tenant).then_some(key));
        })?;
        // What a daemon that was killed between two steps left of their leases.
        tables.traffic.each(|key, _| {
            traffic.extend(ours.contains(&key.tenant).then_some(key));
        })?;
        let mut maps = self.shared.maps();
        for key in reasons {
            gone(maps.reasons.remove(&key)).on("write", "REASONS")?;
        }
        for key in traffic {
            gone(maps.traffic.remove(&key)).on("write", "TRAFFIC")?;
        }
        Ok(())
    }

    /// Tenants now.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn tenants(&self) -> Result<Vec<(u32, abi::Tenant)>> {
        self.shared.tables.tenants.all()
    }

    /// Opens (or changes) a lease: from here on users are admitted. A new one counts from zero. A SYN budget of 0 is replaced
    /// by 2,000 a second with a burst of 8,000.
    ///
    /// # Errors
    /// When a map can't be written (it is full); nothing stays half-written then.
    pub fn put_lease(&self, key: abi::PortKey, lease: &abi::Lease) -> Result<()> {
        let mut lease = *lease;
        if lease.syn_interval_ns == 0 {
            (lease.syn_interval_ns, lease.syn_burst_ns) =
                totoro_ebpf::logic::bucket::rate(LEASE_SYN_RATE.0, LEASE_SYN_RATE.1);
        }
        let traffic = traffic_key(lease.tenant, key);
        let (before, mut fresh) = {
            let maps = self.shared.maps();
            let before = found(maps.ports.get(&key, 0)).on("read", "PORTS")?;
            let same = before.is_some_and(|before| before.lease == lease.lease);
            // A new lease counts from zero, whatever a killed daemon left of the one before.
            let counted = same
                && found(maps.traffic.get(&traffic, 0))
                    .on("read", "TRAFFIC")?
                    .is_some();
            (before, (!same, !counted))
        };
        let new = fresh.0;
        let written = patiently(|| {
            let mut maps = self.shared.maps();
            write_lease(&mut maps, key, &lease, &mut fresh)?;
            self.shared.near().open(key, &lease, new)
        });
        if written.is_err() && before.is_none() {
            // What made it into the maps before one was full must not stay.
            let mut maps = self.shared.maps();
            let _ = maps.port_usage.remove(&key);
            let _ = maps.traffic.remove(&traffic);
        }
        written
    }

    /// Closes a lease: nothing new is admitted, and what lives on the port is destroyed. What was
    /// counted on it ([`Kernel::lease_counts`]) stays until [`Kernel::forget_lease`]: it must be
    /// durable elsewhere before.
    ///
    /// # Errors
    /// The first map that can't be written, or socket that can't be destroyed; the rest was done
    /// all the same, and the lease is closed to new connections in any case.
    pub fn remove_lease(&self, key: abi::PortKey) -> Result<()> {
        let mut first = First(None);
        {
            let mut maps = self.shared.maps();
            first.of(self.shared.near().close(key));
            first.of(gone(maps.ports.remove(&key)).on("write", "PORTS"));
        }
        if key.proto == abi::TCP {
            // A connection is counted before it is entered, and to look at all of them takes a while.
            // What was not admitted is not counted, and is about to be destroyed anyway.
            let usage = found(self.shared.maps().port_usage.get(&key, 0));
            if !matches!(usage, Ok(Some(usage)) if usage.conns == 0) {
                first.of(self.destroy_where(|conn| conn.local_port == key.port));
            }
        } else {
            first.of(self.end_flows(|flow, _| flow.port == key.port));
        }
        first.0.map_or(Ok(()), Err)
    }

    /// What was counted on a tenant's lease so far; zeros when there is none.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn lease_counts(&self, tenant: u32, key: abi::PortKey) -> Result<LeaseCounts> {
        let maps = self.shared.maps();
        let traffic = maps.traffic(tenant, key)?;
        let usage = found(maps.port_usage.get(&key, 0))
            .on("read", "PORT_USAGE")?
            .unwrap_or_default();
        Ok(LeaseCounts {
            bytes_in: traffic.bytes_in,
            bytes_out: traffic.bytes_out,
            packets_in: traffic.packets_in,
            packets_out: traffic.packets_out,
            admitted: usage.admitted,
            live: usage.conns,
        })
    }

    /// What passed a tenant's lease so far.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn traffic(&self, tenant: u32, key: abi::PortKey) -> Result<abi::Traffic> {
        self.shared.maps().traffic(tenant, key)
    }

    /// Forgets what was counted on a tenant's lease of a port, which must be closed.
    ///
    /// # Errors
    /// When a map can't be written.
    pub fn forget_lease(&self, tenant: u32, key: abi::PortKey) -> Result<()> {
        let mut maps = self.shared.maps();
        gone(maps.traffic.remove(&traffic_key(tenant, key))).on("write", "TRAFFIC")?;
        gone(maps.port_usage.remove(&key))
            .on("write", "PORT_USAGE")
            .map(drop)
    }

    /// Leases now.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn leases(&self) -> Result<Vec<(abi::PortKey, abi::Lease)>> {
        self.shared.tables.ports.all()
    }

    /// One tenant's counts; zeros when it is unknown.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn counts(&self, tenant: u32) -> Result<TenantCounts> {
        self.shared.maps().counts(tenant)
    }

    /// All tenants' counts, by their numbers.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn all_counts(&self) -> Result<HashMap<u32, TenantCounts>> {
        self.shared.tables.counts()
    }

    /// What is counted on every port, whoever leases it.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn port_usage(&self) -> Result<Vec<(abi::PortKey, abi::PortUsage)>> {
        self.shared.tables.port_usage.all()
    }

    /// All refusal counters.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn refused(&self) -> Result<Vec<Refused>> {
        self.shared.tables.refused()
    }

    /// Live user connections, surplus ones included.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        self.shared.tables.connections()
    }

    /// Live UDP flows.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn flows(&self) -> Result<Vec<(abi::FlowKey, abi::Flow)>> {
        self.shared.tables.flows.all()
    }

    /// Destroys a tenant's user connections (by cookie) and forgets its UDP flows; how many. Put
    /// the tenant to `CUT` first, so that nothing passes meanwhile.
    ///
    /// # Errors
    /// When a map can't be read, or the last error of a socket that could not be destroyed.
    pub fn destroy_tenant(&self, tenant: u32) -> Result<usize> {
        let mut first = First(None);
        let conns = first.of(self.destroy_where(|conn| conn.tenant == tenant));
        let flows = self.end_flows(|_, flow| flow.tenant == tenant);
        let ended = conns.destroyed + first.of(flows);
        first.0.map_or(Ok(ended), Err)
    }
}

fn traffic_key(tenant: u32, key: abi::PortKey) -> abi::TrafficKey {
    abi::TrafficKey {
        tenant,
        port: key.port,
        proto: key.proto,
        pad: 0,
    }
}

/// Writes what a lease needs: fresh counters where `fresh` says so (of the port, of the traffic; no
/// more once they are there), and the lease itself last, because with it users are admitted.
fn write_lease(
    maps: &mut Maps,
    key: abi::PortKey,
    lease: &abi::Lease,
    fresh: &mut (bool, bool),
) -> Result<()> {
    if fresh.0 {
        let zeros = maps.port_usage.insert(key, abi::PortUsage::default(), 0);
        zeros.on("write", "PORT_USAGE")?;
        fresh.0 = false;
    }
    if fresh.1 {
        let cpus = aya::util::nr_cpus()
            .map_err(|(_, error)| error)
            .on("count", "the CPUs")?;
        let zeros = PerCpuValues::try_from(vec![abi::Traffic::default(); cpus]);
        let zeros = zeros.on("make", "zeros")?;
        let traffic = traffic_key(lease.tenant, key);
        let zeros = maps.traffic.insert(traffic, zeros, 0);
        zeros.on("write", "TRAFFIC")?;
        fresh.1 = false;
    }
    maps.ports.insert(key, lease, 0).on("write", "PORTS")
}
