//! The model: who is in, and who may come.

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Instant;

use totoro_api::Reason;
use totoro_ebpf::abi::{ACTIVE, Tenant};

/// Tenants by their ports: `PORT + nth` of both protocols is the `nth` one's. The last two have a parent.
pub(super) const TENANTS: [u32; 3] = [1, 2, 3];
pub(super) const PARENT: u32 = 9;
/// The node's connections, of all together.
pub(super) const TOTAL: u32 = 7;
/// Where users come from: 127.0.0.2 and so on.
pub(super) const SOURCES: u8 = 4;

pub(super) struct Conn {
    pub(super) nth: usize,
    pub(super) source: u8,
    pub(super) user: TcpStream,
    pub(super) service: TcpStream,
}

pub(super) struct Talk {
    pub(super) nth: usize,
    pub(super) source: u8,
    pub(super) user: UdpSocket,
    pub(super) is_confirmed: bool,
    /// When it was made.
    pub(super) since: Instant,
}

/// What the kernel should have.
pub(super) struct Model {
    pub(super) limits: [Tenant; 3],
    pub(super) parent: Tenant,
    pub(super) leased: [bool; 3],
    pub(super) banned: Vec<u8>,
    pub(super) admitted: [u64; 3],
    pub(super) conns: Vec<Conn>,
    pub(super) talks: Vec<Talk>,
}

pub(super) fn parent_of(nth: usize) -> u32 {
    if nth == 0 { 0 } else { PARENT }
}

pub(super) fn address(source: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + source)
}

impl Model {
    /// How many of a tenant, of its parent's tenants, and of one source of the tenant's.
    fn count(all: impl Iterator<Item = (usize, u8)>, nth: usize, source: u8) -> [u32; 3] {
        let mut counts = [0; 3];
        for (one, from) in all {
            counts[0] += u32::from(one == nth);
            counts[1] += u32::from(nth != 0 && one != 0);
            counts[2] += u32::from(one == nth && from == source);
        }
        counts
    }

    pub(super) fn conns(&self, nth: usize, source: u8) -> [u32; 3] {
        let all = self.conns.iter().map(|conn| (conn.nth, conn.source));
        Self::count(all, nth, source)
    }

    pub(super) fn talks(&self, nth: usize, source: u8) -> [u32; 3] {
        let all = self.talks.iter().map(|talk| (talk.nth, talk.source));
        Self::count(all, nth, source)
    }

    /// Why nobody new may come, whatever there is room for.
    pub(super) fn closed(&self, nth: usize, source: u8) -> Option<Reason> {
        let tenant = &self.limits[nth];
        if !self.leased[nth] {
            Some(Reason::NoLease)
        } else if tenant.state != ACTIVE {
            Reason::from_number(tenant.reason)
        } else if self.banned.contains(&source) {
            Some(Reason::ClientBanned)
        } else {
            None
        }
    }

    /// Why a connection is refused.
    pub(super) fn refuses(&self, nth: usize, source: u8) -> Option<Reason> {
        let tenant = &self.limits[nth];
        let [has, of_parent, of_source] = self.conns(nth, source);
        if let Some(reason) = self.closed(nth, source) {
            Some(reason)
        } else if has >= tenant.max_conns {
            Some(Reason::MaxConns)
        } else if of_source >= tenant.max_conns_per_source {
            Some(Reason::MaxConnsPerSource)
        } else if self.conns.len() as u32 >= TOTAL {
            Some(Reason::NodeFull)
        } else if nth != 0 && of_parent >= self.parent.max_conns {
            Some(Reason::PublicFull)
        } else {
            None
        }
    }

    /// Why a new flow finds no room, and whether one that is not confirmed may give its place.
    pub(super) fn full(&self, nth: usize, source: u8) -> Option<(Reason, bool)> {
        let tenant = &self.limits[nth];
        let [has, of_parent, of_source] = self.talks(nth, source);
        let open = |is: &dyn Fn(&Talk) -> bool| {
            let mut open = self.talks.iter().filter(|talk| !talk.is_confirmed);
            open.any(is)
        };
        if of_source >= tenant.max_conns_per_source {
            let own = open(&|talk| (talk.nth, talk.source) == (nth, source));
            Some((Reason::MaxConnsPerSource, own))
        } else if has >= tenant.max_flows {
            Some((Reason::MaxFlows, open(&|talk| talk.nth == nth)))
        } else if nth != 0 && of_parent >= self.parent.max_flows {
            Some((Reason::PublicFull, open(&|talk| talk.nth != 0)))
        } else {
            None
        }
    }
}
