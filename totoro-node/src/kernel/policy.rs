//! What the daemon writes and reads: tenants, leases, counts.

use std::net::SocketAddr;

use totoro_api::ports::{Pool, Protocol};
use totoro_ebpf::abi;
use totoro_ebpf::logic::pool;

use super::maps::{Maps, entries, found, gone};
use super::sweep::{First, close_flows};
use super::{
    Connection, Context, ControlSocket, Kernel, Refused, Result, TenantCounts, from_addr, scoped,
    to_addr,
};

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
        let before = found(maps.ports.get(&key, 0)).on("read", "PORTS")?;
        let same = before.is_some_and(|before| before.lease == lease.lease);
        let counted = found(maps.traffic.get(&traffic, 0))
            .on("read", "TRAFFIC")?
            .is_some();
        let written = write_lease(&mut maps, key, &lease, (!same, !counted));
        if written.is_err() && before.is_none() {
            // What made it into the maps before one was full must not stay.
            let _ = maps.port_usage.remove(&key);
            if !counted {
                let _ = maps.traffic.remove(&traffic);
            }
        }
        written
    }

    /// Closes a lease: nothing new is admitted, what lives on the port is destroyed, and the
    /// traffic of the lease's tenant on that port is returned and forgotten. Of a port that has no
    /// lease it removes what may be left of one.
    ///
    /// # Errors
    /// The first map that can't be written, or socket that can't be destroyed; the rest was done
    /// all the same, and the lease is closed to new connections in any case.
    pub fn remove_lease(&self, key: abi::PortKey) -> Result<abi::Traffic> {
        let mut first = First(None);
        let lease = {
            let mut maps = self.shared.maps();
            let lease = first.of(found(maps.ports.get(&key, 0)).on("read", "PORTS"));
            first.of(gone(maps.ports.remove(&key)).on("write", "PORTS"));
            lease
        };
        if key.proto == abi::TCP {
            first.of(self.destroy_where(|conn| conn.local_port == key.port));
        }
        let mut maps = self.shared.maps();
        if key.proto == abi::UDP {
            first.of(close_flows(&mut maps, |flow, _| flow.port == key.port));
        }
        let traffic = lease.map_or_else(abi::Traffic::default, |lease| {
            first.of(maps.traffic(lease.tenant, key))
        });
        let left: Vec<abi::TrafficKey> = match lease {
            Some(lease) => vec![traffic_key(lease.tenant, key)],
            None => maps
                .traffic
                .keys()
                .flatten()
                .filter(|known| (known.port, known.proto) == (key.port, key.proto))
                .collect(),
        };
        for known in left {
            first.of(gone(maps.traffic.remove(&known)).on("write", "TRAFFIC"));
        }
        first.of(gone(maps.port_usage.remove(&key)).on("write", "PORT_USAGE"));
        first.0.map_or(Ok(traffic), Err)
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

    /// Traffic of a live lease so far; zeros when it is unknown.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn traffic(&self, tenant: u32, key: abi::PortKey) -> Result<abi::Traffic> {
        self.shared.maps().traffic(tenant, key)
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

    /// The TCP connection to frps's own port that comes from `client`; `None` for what is no plain
    /// TCP connection (kcp, quic), has ended, or is older than the programs.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn control_socket(&self, client: SocketAddr) -> Result<Option<ControlSocket>> {
        let key = abi::ControlKey {
            remote: to_addr(client.ip()),
            remote_port: client.port(),
            pad: [0; 3],
        };
        let control = found(self.shared.maps().control.get(&key, 0)).on("read", "CONTROL")?;
        Ok(control.map(|control| ControlSocket {
            cookie: control.cookie,
            client,
            local: scoped(
                from_addr(&control.local),
                control.local_port,
                control.ifindex,
            ),
        }))
    }

    /// Destroys a tenant's user connections (by cookie) and forgets its UDP flows; how many. Put
    /// the tenant to `CUT` first, so that nothing passes meanwhile.
    ///
    /// # Errors
    /// When a map can't be read, or the last error of a socket that could not be destroyed.
    pub fn destroy_tenant(&self, tenant: u32) -> Result<usize> {
        let mut first = First(None);
        let conns = first.of(self.destroy_where(|conn| conn.tenant == tenant));
        let flows = close_flows(&mut self.shared.maps(), |_, flow| flow.tenant == tenant);
        let ended = conns.destroyed + first.of(flows);
        first.0.map_or(Ok(ended), Err)
    }

    /// Destroys frpc's connection, by cookie; false when it had ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn destroy_control(&self, socket: &ControlSocket) -> Result<bool> {
        let interface = match socket.local {
            SocketAddr::V6(local) => local.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        self.shared
            .destroyer()
            .destroy(socket.local, socket.client, interface, socket.cookie)
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

/// Writes what a lease needs: fresh counters where `fresh` says so (of the port, of the traffic),
/// and the lease itself last, because with it users are admitted.
fn write_lease(
    maps: &mut Maps,
    key: abi::PortKey,
    lease: &abi::Lease,
    fresh: (bool, bool),
) -> Result<()> {
    if fresh.0 {
        maps.port_usage
            .insert(key, abi::PortUsage::default(), 0)
            .on("write", "PORT_USAGE")?;
    }
    if fresh.1 {
        let cpus = aya::util::nr_cpus()
            .map_err(|(_, error)| error)
            .on("count", "the CPUs")?;
        let zeros = aya::maps::PerCpuValues::try_from(vec![abi::Traffic::default(); cpus])
            .on("write", "TRAFFIC")?;
        maps.traffic
            .insert(traffic_key(lease.tenant, key), zeros, 0)
            .on("write", "TRAFFIC")?;
    }
    maps.ports.insert(key, lease, 0).on("write", "PORTS")
}
