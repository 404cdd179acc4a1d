//! Reading the pins beside a running daemon, or without one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use totoro_ebpf::abi;

use super::fill::{self, Fill};
use super::maps::{Maps, found};
use super::tables::Tables;
use super::{Connection, Context, Refused, Result, TenantCounts, failed, pins};

/// Read-only access to pinned maps.
pub struct Inspector {
    maps: Maps,
    tables: Tables,
    dir: PathBuf,
}

impl Inspector {
    /// Opens the pins under `pin_root`; each map's key and value sizes are compared with the ABI's.
    ///
    /// # Errors
    /// When nothing is pinned there, or what is pinned is not ours.
    pub fn open(pin_root: &Path) -> Result<Inspector> {
        let dir = pins::map_dir(pin_root);
        if !pins::is_loaded(pin_root) {
            let problem = pins::not_loaded(pin_root, "start totoro-node run, or give --pin-root");
            return Err(failed("inspect", dir.display().to_string(), problem));
        }
        Ok(Inspector {
            maps: Maps::from_pins(&dir)?,
            tables: Tables::from_pins(&dir)?,
            dir,
        })
    }

    /// Leases, with what happens on each port.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn ports(&self) -> Result<Vec<(abi::PortKey, abi::Lease, abi::PortUsage)>> {
        let usage = self.tables.port_usage.all()?.into_iter();
        let usage: HashMap<_, _> = usage
            .map(|(key, usage)| ((key.proto, key.port), usage))
            .collect();
        let mut ports = Vec::new();
        self.tables.ports.each(|key, lease| {
            let usage = usage.get(&(key.proto, key.port)).copied();
            ports.push((key, lease[0], usage.unwrap_or_default()));
        })?;
        ports.sort_by_key(|(key, ..)| (key.proto, key.port));
        Ok(ports)
    }

    /// Tenants with their counts.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn tenants(&self) -> Result<Vec<(u32, abi::Tenant, TenantCounts)>> {
        let counts = self.tables.counts()?;
        let mut tenants = Vec::new();
        self.tables.tenants.each(|number, tenant| {
            let counts = counts.get(&number).copied().unwrap_or_default();
            tenants.push((number, tenant[0], counts));
        })?;
        tenants.sort_by_key(|(number, ..)| *number);
        Ok(tenants)
    }

    /// One tenant's counts, or all tenants' together ([`abi::NODE`], where a total is set); zeros where there
    /// are none.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn counts(&self, tenant: u32) -> Result<TenantCounts> {
        self.maps.counts(tenant)
    }

    /// One tenant, by its number.
    ///
    /// # Errors
    /// When the map can't be read.
    pub fn tenant(&self, number: u32) -> Result<Option<abi::Tenant>> {
        found(self.maps.tenants.get(&number, 0)).on("read", "TENANTS")
    }

    /// Live user connections.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        self.tables.connections()
    }

    /// Live UDP flows.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn flows(&self) -> Result<Vec<(abi::FlowKey, abi::Flow)>> {
        self.tables.flows.all()
    }

    /// Connections by source and tenant.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn sources(&self) -> Result<Vec<(abi::SourceKey, abi::Source)>> {
        self.tables.sources.all()
    }

    /// Refusals.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn refused(&self) -> Result<Vec<Refused>> {
        self.tables.refused()
    }

    /// How full each table is.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn fill(&self) -> Result<Vec<Fill>> {
        fill::all(&self.dir, &self.tables)
    }

    /// Traffic of a lease.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn traffic(&self, tenant: u32, key: abi::PortKey) -> Result<abi::Traffic> {
        self.maps.traffic(tenant, key)
    }

    /// Bans with their ends, boot-time ns.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn bans(&self) -> Result<Vec<(ipnet::IpNet, u64)>> {
        self.maps.bans()
    }

    /// The configuration that the programs run under.
    ///
    /// # Errors
    /// When a map can't be read.
    pub fn config(&self) -> Result<abi::Config> {
        self.maps.config.get(&0, 0).on("read", "CONFIG")
    }
}
