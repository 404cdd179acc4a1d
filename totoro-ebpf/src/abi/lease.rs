//! Orders to `totoro_lease`: a program that is attached nowhere and run by the daemon, so that a lease
//! opens and closes in one call of the kernel, whatever the number of tables that know of it.

use super::{Lease, PortKey, Traffic, abi};

/// [`LeaseOrder::kind`]: write the lease. With another number than the one before, if any, it counts from zero
/// and has its whole SYN budget.
pub const LEASE_OPEN: u32 = 1;
/// [`LeaseOrder::kind`]: remove the lease; the answer is what was counted on it, which stays.
pub const LEASE_CLOSE: u32 = 2;
/// [`LeaseOrder::kind`]: forget what was counted on a lease of the tenant that has ended.
pub const LEASE_FORGET: u32 = 3;

/// What `totoro_lease` returns when all is done. Else the number of the table that can't be written, shifted,
/// and the system's error number.
pub const LEASE_DONE: u32 = 0;
/// By how much the table's number is shifted.
pub const LEASE_SHIFT: u32 = 16;
/// `PORT_USAGE` can't be written.
pub const LEASE_NO_USAGE: u32 = 1;
/// `TRAFFIC` can't be written.
pub const LEASE_NO_TRAFFIC: u32 = 2;
/// `PORTS` can't be written.
pub const LEASE_NO_PORT: u32 = 3;
/// The order itself can't be read.
pub const LEASE_NO_ORDER: u32 = 4;

/// An order, and after [`LEASE_CLOSE`] its answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseOrder {
    /// `LEASE_…`
    pub kind: u32,
    /// The port.
    pub key: PortKey,
    /// For [`LEASE_OPEN`]; for [`LEASE_FORGET`] its tenant alone; after [`LEASE_CLOSE`], the lease that was
    /// removed: number 0 = there was none.
    pub lease: Lease,
    /// After [`LEASE_CLOSE`]: what passed, of all CPUs.
    pub traffic: Traffic,
    /// After [`LEASE_CLOSE`]: connections that were admitted.
    pub admitted: u64,
    /// After [`LEASE_CLOSE`]: connections that live; all ones where nobody counts them.
    pub conns: u64,
}

/// The packet that the program is run with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeasePacket {
    /// For an Ethernet header, without which nothing is a packet. Zeros.
    pub header: [u64; 2],
    /// The order.
    pub order: LeaseOrder,
}

abi! { LeaseOrder: 96, LeasePacket: 112 }
