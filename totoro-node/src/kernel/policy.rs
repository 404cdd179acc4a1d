//! What the daemon writes and reads: tenants, leases, bans, counts.

use totoro_api::ports::{Pool, Protocol};
use totoro_ebpf::abi;
use totoro_ebpf::logic::pool;

use super::maps::{Maps, ban_key, entries, found, gone};
use super::{
    Connection, Context, Kernel, LeaseCounts, Refused, Result, Swept, TenantCounts, boot_ns,
    from_addr, locals,
};

/// An idle zero entry of `SOURCES` is kept so long, ns: longer than any connection attempt that
/// might be about to count on it.
const SOURCE_KEPT_NS: u64 = 60_000_000_000;

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
        let mut maps = self.shared.maps();
        // Counts first: a policy without counts admits nobody, but says the wrong reason.
        if found(maps.usage.get(&tenant, 0))
            .on("read", "USAGE")?
            .is_none()
        {
            maps.usage
                .insert(tenant, abi::Usage::default(), 0)
                .on("write", "USAGE")?;
        }
        if found(maps.flows_closed.get(&tenant, 0))
            .on("read", "FLOWS_CLOSED")?
            .is_none()
        {
            maps.flows_closed
                .insert(tenant, 0, 0)
                .on("write", "FLOWS_CLOSED")?;
        }
        maps.tenants
            .insert(tenant, policy, 0)
            .on("write", "TENANTS")
    }

    /// Forgets a tenant and its counts. Its leases must be gone.
    ///
    /// # Errors
    /// When a map can't be written.
    pub fn remove_tenant(&self, tenant: u32) -> Result<()> {
        let mut maps = self.shared.maps();
        gone(maps.tenants.remove(&tenant)).on("write", "TENANTS")?;
        gone(maps.usage.remove(&tenant)).on("write", "USAGE")?;
        gone(maps.flows_closed.remove(&tenant)).on("write", "FLOWS_CLOSED")?;
        let reasons = entries(maps.reasons.iter(), "REASONS")?;
        for (key, _) in reasons.into_iter().filter(|(key, _)| key.tenant == tenant) {
            gone(maps.reasons.remove(&key)).on("write", "REASONS")?;
        }
        // What a daemon that was killed between two steps left of its leases.
        let traffic = entries(maps.traffic.iter(), "TRAFFIC")?;
        for (key, _) in traffic.into_iter().filter(|(key, _)| key.tenant == tenant) {
            gone(maps.traffic.remove(&key)).on("write", "TRAFFIC")?;
        }
        Ok(())
    }

    /// Tenants now.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn tenants(&self) -> Result<Vec<(u32, abi::Tenant)>> {
        entries(self.shared.maps().tenants.iter(), "TENANTS")
    }

    /// Opens (or changes) a lease: from here on users are admitted. A SYN budget of 0 is replaced
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
        let mut maps = self.shared.maps();
        let traffic = traffic_key(lease.tenant, key);
        if found(maps.port_usage.get(&key, 0))
            .on("read", "PORT_USAGE")?
            .is_none()
        {
            maps.port_usage
                .insert(key, abi::PortUsage::default(), 0)
                .on("write", "PORT_USAGE")?;
        }
        if found(maps.traffic.get(&traffic, 0))
            .on("read", "TRAFFIC")?
            .is_none()
        {
            let zeros = vec![
                abi::Traffic::default();
                aya::util::nr_cpus()
                    .map_err(|(_, e)| e)
                    .on("count", "the CPUs")?
            ];
            let zeros = aya::maps::PerCpuValues::try_from(zeros).on("write", "TRAFFIC")?;
            maps.traffic
                .insert(traffic, zeros, 0)
                .on("write", "TRAFFIC")?;
        }
        // The lease itself last: with it users are admitted.
        maps.ports.insert(key, lease, 0).on("write", "PORTS")
    }

    /// Closes a lease: nothing new is admitted, and what lives on the port is destroyed. What was
    /// counted on it is returned, and stays until [`Kernel::forget_lease`]: it must be durable
    /// elsewhere before.
    ///
    /// # Errors
    /// When a map can't be written or a socket can't be destroyed; the lease is closed to new
    /// connections in any case.
    pub fn remove_lease(&self, key: abi::PortKey) -> Result<LeaseCounts> {
        let lease = {
            let mut maps = self.shared.maps();
            let Some(lease) = found(maps.ports.get(&key, 0)).on("read", "PORTS")? else {
                return Ok(LeaseCounts::default());
            };
            gone(maps.ports.remove(&key)).on("write", "PORTS")?;
            lease
        };
        self.destroy_where(|conn| conn.local_port == key.port && key.proto == abi::TCP)?;
        close_flows(&mut self.shared.maps(), |flow_key, _| {
            key.proto == abi::UDP && flow_key.port == key.port
        })?;
        self.lease_counts(lease.tenant, key)
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
        entries(self.shared.maps().ports.iter(), "PORTS")
    }

    /// One tenant's counts; zeros when it is unknown.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn counts(&self, tenant: u32) -> Result<TenantCounts> {
        self.shared.maps().counts(tenant)
    }

    /// All refusal counters.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn refused(&self) -> Result<Vec<Refused>> {
        self.shared.maps().refused()
    }

    /// Live user connections, surplus ones included.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        self.shared.maps().connections()
    }

    /// Live UDP flows.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn flows(&self) -> Result<Vec<(abi::FlowKey, abi::Flow)>> {
        entries(self.shared.maps().flows.iter(), "FLOWS")
    }

    /// Destroys a tenant's user connections (by cookie) and forgets its UDP flows; how many. Put
    /// the tenant to `CUT` first, so that nothing passes meanwhile.
    ///
    /// # Errors
    /// When a map can't be read, or the last error of a socket that could not be destroyed.
    pub fn destroy_tenant(&self, tenant: u32) -> Result<usize> {
        let conns = self.destroy_where(|conn| conn.tenant == tenant)?;
        let flows = close_flows(&mut self.shared.maps(), |_, flow| flow.tenant == tenant)?;
        Ok(conns + flows)
    }

    /// Bans a prefix until a boot-time instant, ns (0 = until lifted), and closes its UDP flows;
    /// its live TCP connections go on.
    ///
    /// # Errors
    /// When the map can't be written (it is full).
    pub fn put_ban(&self, prefix: ipnet::IpNet, until_ns: u64) -> Result<()> {
        let mut maps = self.shared.maps();
        maps.bans
            .insert(&ban_key(prefix), abi::Ban { until_ns }, 0)
            .on("write", "BANS")?;
        close_flows(&mut maps, |key, _| prefix.contains(&from_addr(&key.remote)))?;
        Ok(())
    }

    /// Lifts a ban.
    ///
    /// # Errors
    /// When the map can't be written.
    pub fn remove_ban(&self, prefix: ipnet::IpNet) -> Result<()> {
        gone(self.shared.maps().bans.remove(&ban_key(prefix)))
            .on("write", "BANS")
            .map(drop)
    }

    /// Bans now, with their ends.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn bans(&self) -> Result<Vec<(ipnet::IpNet, u64)>> {
        self.shared.maps().bans()
    }

    /// Closes idle flows, destroys surplus connections that an event should have announced, forgets
    /// idle sources, and refreshes the node's own addresses. Call it every second.
    ///
    /// # Errors
    /// The first map that can't be read or written.
    pub fn sweep(&self) -> Result<Swept> {
        let now = boot_ns();
        let idle_flows = {
            let mut maps = self.shared.maps();
            locals::refresh(&mut maps)?;
            let idle = maps.config.get(&0, 0).on("read", "CONFIG")?.flow_idle_ns;
            forget_sources(&mut maps, now)?;
            close_flows(&mut maps, |_, flow| flow.last_ns + idle < now)?
        };
        // A second old: the event, if there was one, has been acted on, and so has a lease's end.
        // What was established in the very moment in which its lease ended is found here.
        let leases: std::collections::HashMap<u16, u32> = (self.leases()?.into_iter())
            .filter(|(key, _)| key.proto == abi::TCP)
            .map(|(key, lease)| (key.port, lease.tenant))
            .collect();
        let settled = |conn: &abi::Conn| conn.opened_ns + 1_000_000_000 < now;
        let surplus = self.destroy_where(|conn| conn.flags & abi::SURPLUS != 0 && settled(conn))?;
        let orphans = self.destroy_where(|conn| {
            settled(conn) && leases.get(&conn.local_port) != Some(&conn.tenant)
        })?;
        Ok(Swept {
            idle_flows,
            surplus,
            orphans,
        })
    }

    /// Destroys every connection that `wanted` picks; how many were there.
    fn destroy_where(&self, wanted: impl Fn(&abi::Conn) -> bool) -> Result<usize> {
        let all = self.shared.maps().connections()?;
        let mut destroyed = 0;
        let mut failure = None;
        for Connection { cookie, conn } in all.iter().filter(|connection| wanted(&connection.conn))
        {
            match self.shared.destroy(*cookie, conn) {
                Ok(true) => destroyed += 1,
                // Ended, and its close was not heard of: the entry must not stay.
                Ok(false) => {
                    gone(self.shared.maps().conns.remove(cookie)).on("write", "CONNS")?;
                }
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(destroyed), Err)
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

/// Closes the flows that `wanted` picks, and counts them as closed for tenant and parent; how many.
fn close_flows(
    maps: &mut Maps,
    wanted: impl Fn(&abi::FlowKey, &abi::Flow) -> bool,
) -> Result<usize> {
    let mut closed = 0;
    for (key, flow) in entries(maps.flows.iter(), "FLOWS")? {
        if !wanted(&key, &flow) || !gone(maps.flows.remove(&key)).on("write", "FLOWS")? {
            continue;
        }
        closed += 1;
        let parent = found(maps.tenants.get(&flow.tenant, 0)).on("read", "TENANTS")?;
        for tenant in [Some(flow.tenant), parent.map(|tenant| tenant.parent)] {
            let Some(tenant) = tenant.filter(|&tenant| tenant != 0) else {
                continue;
            };
            if let Some(count) =
                found(maps.flows_closed.get(&tenant, 0)).on("read", "FLOWS_CLOSED")?
            {
                maps.flows_closed
                    .insert(tenant, count + 1, 0)
                    .on("write", "FLOWS_CLOSED")?;
            }
        }
    }
    for (key, flow) in entries(maps.candidates.iter(), "CANDIDATES")? {
        if wanted(&key, &flow) {
            gone(maps.candidates.remove(&key)).on("write", "CANDIDATES")?;
        }
    }
    Ok(closed)
}

fn forget_sources(maps: &mut Maps, now: u64) -> Result<()> {
    for (key, source) in entries(maps.sources.iter(), "SOURCES")? {
        if source.conns == 0 && source.last_ns + SOURCE_KEPT_NS < now {
            gone(maps.sources.remove(&key)).on("write", "SOURCES")?;
        }
    }
    Ok(())
}
