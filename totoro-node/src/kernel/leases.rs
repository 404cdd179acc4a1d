//! Leases: opening and closing them, each in one call of the kernel, and what is counted on them.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;

use aya::programs::ProgramFd;
use totoro_ebpf::abi::{self, LeaseOrder, LeasePacket};
use totoro_ebpf::logic::bucket;

use super::maps::{found, gone, patiently};
use super::sweep::First;
use super::{Context, Kernel, LeaseCounts, Result, links, sys};

/// SYNs per second, and burst, that a lease takes before XDP drops (UDP: new flows).
const SYN_RATE: (u32, u32) = (2_000, 8_000);

/// The program that opens and closes them.
const PROGRAM: &str = "totoro_lease";

/// A handle of its own of the program: who opens a lease waits for nobody that looks after the links.
pub(super) struct Leases(ProgramFd);

impl Leases {
    /// Of a loaded object.
    pub(super) fn of(ebpf: &mut aya::Ebpf) -> Result<Leases> {
        links::handle(ebpf, PROGRAM).map(Leases)
    }

    /// Has an order carried out; with its answer.
    fn run(&self, order: LeaseOrder) -> Result<LeaseOrder> {
        let mut answer = order;
        patiently(|| {
            let mut packet = LeasePacket {
                order,
                ..LeasePacket::default()
            };
            let code = sys::run(self.0.as_fd(), &mut packet).on("run", PROGRAM)?;
            answer = packet.order;
            done(code)
        })?;
        Ok(answer)
    }
}

/// What the program's code says: which table could not be written, and why.
fn done(code: u32) -> Result<()> {
    let table = match code >> abi::LEASE_SHIFT {
        _ if code == abi::LEASE_DONE => return Ok(()),
        abi::LEASE_NO_USAGE => "PORT_USAGE",
        abi::LEASE_NO_TRAFFIC => "TRAFFIC",
        abi::LEASE_NO_PORT => "PORTS",
        _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)).on("order", PROGRAM),
    };
    let error = code & ((1 << abi::LEASE_SHIFT) - 1);
    Err(io::Error::from_raw_os_error(error.cast_signed())).on("write", table)
}

/// What is counted on a lease, put together.
const fn counts(traffic: abi::Traffic, admitted: u64, live: u64) -> LeaseCounts {
    LeaseCounts {
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        packets_in: traffic.packets_in,
        packets_out: traffic.packets_out,
        admitted,
        live,
    }
}

impl Kernel {
    /// Opens (or changes) a lease: from here on users are admitted. A new one counts from zero. A SYN budget of 0 is replaced
    /// by 2,000 a second with a burst of 8,000.
    ///
    /// # Errors
    /// When a map can't be written (it is full); nothing stays half-written then.
    pub fn put_lease(&self, key: abi::PortKey, lease: &abi::Lease) -> Result<()> {
        let mut lease = *lease;
        if lease.syn_interval_ns == 0 {
            (lease.syn_interval_ns, lease.syn_burst_ns) = bucket::rate(SYN_RATE.0, SYN_RATE.1);
        }
        let order = LeaseOrder {
            kind: abi::LEASE_OPEN,
            key,
            lease,
            ..LeaseOrder::default()
        };
        self.leases.run(order).map(drop)
    }

    /// Closes a lease; see [`Kernel::remove_leases`].
    ///
    /// # Errors
    /// As there.
    pub fn remove_lease(&self, key: abi::PortKey) -> Result<Option<LeaseCounts>> {
        let closed = self.remove_leases(&[key])?;
        Ok(closed.into_iter().next().flatten())
    }

    /// Closes leases: nothing new is admitted, and what lives on their ports is destroyed, of all of them with one look
    /// at the connections and one at the flows. For each the answer is what was counted on it (`None`: there was no
    /// lease), which stays until [`Kernel::forget_lease`]: it must be durable elsewhere before.
    ///
    /// # Errors
    /// The first map that can't be written, or socket that can't be destroyed; the rest was done
    /// all the same, and the leases are closed to new connections in any case.
    pub fn remove_leases(&self, keys: &[abi::PortKey]) -> Result<Vec<Option<LeaseCounts>>> {
        let mut first = First(None);
        // Ports whose users are to be looked for.
        let (mut flows, mut conns) = (HashSet::new(), HashSet::new());
        let mut tenants = HashSet::new();
        let mut all = Vec::with_capacity(keys.len());
        for key in keys {
            let order = LeaseOrder {
                kind: abi::LEASE_CLOSE,
                key: *key,
                ..LeaseOrder::default()
            };
            let closed = self.leases.run(order);
            if closed.is_err() {
                // What can be done without the program: nobody new gets in.
                first.of(gone(self.shared.maps().ports.remove(key)).on("write", "PORTS"));
            }
            // A connection is counted before it is entered, and to look at all of them takes a while.
            // What was not admitted is not counted, and is about to be destroyed anyway.
            let is_empty = matches!(&closed, Ok(closed) if closed.conns == 0);
            if key.proto == abi::UDP {
                flows.insert(key.port);
                tenants.insert(closed.as_ref().map_or(0, |closed| closed.lease.tenant));
            } else if !is_empty {
                conns.insert(key.port);
            }
            all.push((*key, is_empty, first.of(closed)));
        }
        // No look at all flows where there are none: nothing new begins at ports that are closed.
        if !flows.is_empty() && !self.have_no_flows(&tenants).unwrap_or(false) {
            first.of(self.end_flows(|flow, _| flows.contains(&flow.port)));
        }
        if !conns.is_empty() {
            first.of(self.destroy_where(|conn| conns.contains(&conn.local_port)));
        }
        if let Some(error) = first.0 {
            return Err(error);
        }
        let counted = |(key, is_empty, closed): (abi::PortKey, bool, LeaseOrder)| {
            Ok(match closed.lease.lease {
                0 => None,
                _ if key.proto == abi::TCP && is_empty => {
                    Some(counts(closed.traffic, closed.admitted, closed.conns))
                }
                // What passed until the last of them was gone.
                _ => Some(self.lease_counts(closed.lease.tenant, key)?),
            })
        };
        all.into_iter().map(counted).collect()
    }

    /// Whether none of these tenants has a flow, and nobody one that waits for its answer; of tenant 0, who is nobody,
    /// that can't be told.
    fn have_no_flows(&self, tenants: &HashSet<u32>) -> Result<bool> {
        if tenants.contains(&0) || !self.shared.tables.candidates.is_empty()? {
            return Ok(false);
        }
        let maps = self.shared.maps();
        for tenant in tenants {
            // Those that ended first: who takes turns meanwhile makes it look as if more lived, and never fewer.
            let closed = found(maps.flows_closed.get(tenant, 0)).on("read", "FLOWS_CLOSED")?;
            let usage = found(maps.usage.get(tenant, 0)).on("read", "USAGE")?;
            if usage.unwrap_or_default().flows_opened != closed.unwrap_or(0) {
                return Ok(false);
            }
        }
        Ok(true)
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
        Ok(counts(traffic, usage.admitted, usage.conns))
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
        let order = LeaseOrder {
            kind: abi::LEASE_FORGET,
            key,
            lease: abi::Lease {
                tenant,
                ..abi::Lease::default()
            },
            ..LeaseOrder::default()
        };
        self.leases.run(order).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_which_table_and_why() {
        let code = |table: u32, error: i32| (table << abi::LEASE_SHIFT) | error.cast_unsigned();
        assert!(done(abi::LEASE_DONE).is_ok());
        for (table, error, text, is_full) in [
            (abi::LEASE_NO_USAGE, libc::E2BIG, "write PORT_USAGE", true),
            (abi::LEASE_NO_TRAFFIC, libc::ENOMEM, "write TRAFFIC", true),
            (abi::LEASE_NO_PORT, libc::EBUSY, "write PORTS", false),
            (abi::LEASE_NO_ORDER, 0, "order totoro_lease", false),
        ] {
            let failed = done(code(table, error)).unwrap_err();
            assert_eq!(
                (failed.to_string().as_str(), failed.is_full()),
                (text, is_full)
            );
        }
    }
}
