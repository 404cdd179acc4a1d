//! What the daemon writes and reads: the pool, tenants, counts.

use std::collections::{HashMap, HashSet};

use totoro_api::Reason;
use totoro_api::ports::{Pool, PortRange, Protocol};
use totoro_ebpf::abi;
use totoro_ebpf::logic::pool;

use super::maps::{Maps, found, gone, patiently};
use super::sweep::First;
use super::{Connection, Context, Kernel, Refused, Result, TenantCounts};

/// Writes the pool's bits; frps's own port is guarded too. Of what else is guarded `keep` says whether it is still.
pub(super) fn write_pool(maps: &mut Maps, lent: &Pool, bind_port: u16, keep: bool) -> Result<()> {
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
        let is = maps.pool.get(&index, 0).on("read", "POOL")?;
        let wanted = if keep { is | word } else { *word };
        if is != wanted {
            maps.pool.set(index, wanted, 0).on("write", "POOL")?;
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
        write_pool(&mut maps, pool, bind_port as u16, false)
    }

    /// What is guarded, but frps's own port: the pool, and what an earlier daemon found that frps may listen on
    /// outside it.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn pool(&self) -> Result<Pool> {
        let maps = self.shared.maps();
        let bind_port = maps.config.get(&0, 0).on("read", "CONFIG")?.bind_port as u16;
        let words: Vec<u64> = (0..abi::POOL_WORDS)
            .map(|index| maps.pool.get(&index, 0).on("read", "POOL"))
            .collect::<Result<_>>()?;
        let guarded = |protocol: Protocol| {
            let proto = protocol.ip_number();
            let ports = (1..=u16::MAX).filter(|port| {
                let (word, mask) = pool::bit(proto, *port);
                words[word as usize] & mask != 0 && (proto, *port) != (abi::TCP, bind_port)
            });
            ports
                .filter_map(|port| PortRange::new(port, port))
                .collect()
        };
        Ok(Pool {
            tcp: guarded(Protocol::Tcp),
            udp: guarded(Protocol::Udp),
        })
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
            remove_rows(&mut self.shared.maps(), *tenant)?;
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

    /// Forgets the canary, whose lease was forgotten: what it may have is known, and is not looked for in tables of all.
    ///
    /// # Errors
    /// When a map can't be written.
    pub fn remove_canary(&self) -> Result<()> {
        let mut maps = self.shared.maps();
        remove_rows(&mut maps, abi::CANARY)?;
        for reason in Reason::ALL {
            let key = abi::ReasonKey {
                tenant: abi::CANARY,
                reason: reason.number(),
            };
            gone(maps.reasons.remove(&key)).on("write", "REASONS")?;
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

    /// Tenants and ports that traffic is counted of, leased or not.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn counted(&self) -> Result<Vec<(u32, abi::PortKey)>> {
        let mut counted = Vec::new();
        self.shared.tables.traffic.each(|key, _| {
            let port = abi::PortKey {
                port: key.port,
                proto: key.proto,
                pad: 0,
            };
            counted.push((key.tenant, port));
        })?;
        Ok(counted)
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

/// Removes a tenant's own rows: its policy and what is counted of it alone.
fn remove_rows(maps: &mut Maps, tenant: u32) -> Result<()> {
    gone(maps.tenants.remove(&tenant)).on("write", "TENANTS")?;
    gone(maps.usage.remove(&tenant)).on("write", "USAGE")?;
    gone(maps.flows_closed.remove(&tenant)).on("write", "FLOWS_CLOSED")?;
    Ok(())
}
