//! The table of the data plane: packet, maps, verdict, what changes, and whether the daemon is told.
//! `docs/packets.md` is made from it, the kernel's programs and the model are held to it, and
//! [`time`] says what each row costs.

mod filter;
mod floods;
mod greeting;
mod lookup;
mod outbound;
mod row;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use totoro_ebpf::abi::{self, Addr, NODE, TCP, UDP, UNLIMITED, v4_mapped};
use totoro_model::{Lookup, Span, Timed, World};

use crate::build::Packet;
use crate::node::{Hook, Node, boot_ns, cells};
use crate::step::{Owned, Step};
pub use row::Row;

/// The node.
pub const NODE4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const NODE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// A user.
pub const USER4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
pub(crate) const USER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7));
pub(crate) const BANNED4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
pub(crate) const BANNED6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 9));
pub(crate) const ROUTED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));

/// A leased port.
pub(crate) const LEASED: u16 = 20_000;
/// A port of the pool without a lease.
pub const FREE: u16 = 20_001;
/// A leased port with a budget of one SYN, or new flow, an hour.
pub(crate) const SMALL: u16 = 20_002;
pub(crate) const SSH: u16 = 22;
/// frps's own port.
pub(crate) const FRPS: u16 = 7_000;
/// Who has the leases.
pub(crate) const TENANT: u32 = 3;
/// All anonymous tenants together.
pub(crate) const PARENT: u32 = 1;
pub(crate) const S: u64 = 1_000_000_000;
pub(crate) const HOUR: u64 = 3_600 * S;

/// How long a row takes, ns: for each hook (`None` = the lookup) the mean of `repeat` runs in a row,
/// which is of what is refused where each spends a budget.
///
/// # Errors
/// When it can't be run.
pub fn time(row: &Row, node: &mut Node, repeat: u32) -> Result<Vec<(Option<Hook>, u32)>> {
    let mut took = Vec::new();
    for step in row.steps() {
        node.install(&row.world, None)?;
        took.push(match step {
            Step::Frame(hook, frame) => (Some(hook), node.time(hook, frame, repeat)?),
            Step::Lookup(who) => (None, node.time_lookup(&who, repeat)?),
        });
    }
    let spent = row.world.clone();
    node.install(&World::new(row.world.config, cells), Some(&spent))?;
    Ok(took)
}

/// A section of the table.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its title.
    pub title: &'static str,
    /// What its rows have in common.
    pub about: &'static str,
    /// The rows.
    pub rows: Vec<Row>,
}

/// The table, as it is at a moment of the boot-time clock, ns.
#[must_use]
pub fn sections(now: u64) -> Vec<Section> {
    vec![
        filter::headers(now),
        filter::openings(now),
        floods::section(now),
        greeting::section(now),
        outbound::section(now),
        lookup::leases(now),
        lookup::limits(now),
    ]
}

/// Runs something for each row of each section. The row is made at that moment, so that none grows old
/// while those before it run.
pub fn for_each(mut run: impl FnMut(&Section, &Row)) {
    for nth in 0..sections(boot_ns()).len() {
        for row in 0.. {
            let section = sections(boot_ns()).swap_remove(nth);
            let Some(row) = section.rows.get(row) else {
                break;
            };
            run(&section, row);
        }
    }
}

/// What the maps hold where a row says nothing else.
#[must_use]
pub fn base(now: u64) -> World {
    let config = abi::Config {
        abi: abi::VERSION,
        bind_port: FRPS.into(),
        flow_idle_ns: 60 * S,
        sketch_seed: 42,
        ..abi::Config::default()
    };
    let mut world = World::new(config, cells);
    world.pool.insert((TCP, FRPS));
    for proto in [TCP, UDP] {
        world
            .pool
            .extend([LEASED, FREE, SMALL].map(|port| (proto, port)));
        world.ports.insert(key(proto, LEASED), lease(1));
        let small = abi::Lease {
            syn_interval_ns: HOUR,
            syn_burst_ns: HOUR,
            ..lease(2)
        };
        world.ports.insert(key(proto, SMALL), small);
        for port in [LEASED, SMALL] {
            world.port_usage.insert(key(proto, port), Timed::default());
        }
    }
    world.locals.extend([NODE4, NODE6].map(addr));
    world.bans.insert(prefix(24, BANNED4), abi::Ban::default());
    world.bans.insert(prefix(48, BANNED6), abi::Ban::default());
    let tenant = abi::Tenant {
        state: abi::ACTIVE,
        max_conns: 5,
        max_flows: 5,
        max_conns_per_source: UNLIMITED,
        ..abi::Tenant::default()
    };
    world.tenants.insert(TENANT, tenant);
    world.usage.insert(TENANT, Timed::default());
    world.flows_closed.insert(TENANT, 0);
    // When idle ones were looked for: never overdue, however slow the machine.
    let looked = Timed {
        at: Span::exactly(now + HOUR),
        ..Timed::default()
    };
    world.usage.insert(NODE, looked);
    world
}

/// The filter's two hooks.
const FILTER: &[Hook] = &[Hook::Xdp, Hook::TcIn];

/// A frame that comes in; cut ones go through XDP alone, since an skb has whole headers.
fn frame(what: &'static str, packet: &Packet, now: u64) -> Row {
    let bytes = packet.bytes();
    let hooks = if Hook::TcIn.takes(&bytes) {
        FILTER
    } else {
        &FILTER[..1]
    };
    Row::new(what, hooks, Owned::Frame(Hook::Xdp, bytes), now)
}

/// A frame that goes out.
fn leaves(what: &'static str, packet: &Packet, now: u64) -> Row {
    let run = Owned::Frame(Hook::TcOut, packet.bytes());
    Row::new(what, &[Hook::TcOut], run, now)
}

/// A lookup of a user's for a port of the node.
fn look_up(what: &'static str, remote: IpAddr, proto: u8, port: u16, now: u64) -> Row {
    let v6 = remote.is_ipv6();
    let lookup = Lookup {
        v6,
        proto,
        remote: addr(remote),
        remote_port: 40_000,
        local: addr(if v6 { NODE6 } else { NODE4 }),
        port,
    };
    Row::new(what, &[], Owned::Lookup(lookup), now)
}

pub(crate) fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => v4_mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn key(proto: u8, port: u16) -> abi::PortKey {
    abi::PortKey {
        port,
        proto,
        pad: 0,
    }
}

fn lease(lease: u64) -> abi::Lease {
    abi::Lease {
        tenant: TENANT,
        lease,
        ..abi::Lease::default()
    }
}

/// A key of `BANS`: a prefix as long as people say.
fn prefix(length: u32, of: IpAddr) -> (u32, Addr) {
    let length = if of.is_ipv4() { length + 96 } else { length };
    let bits = u128::from_be_bytes(addr(of)) & u128::MAX << (128 - length);
    (length, bits.to_be_bytes())
}

/// A flow of a user's to a port.
fn flow(remote: IpAddr, remote_port: u16, port: u16) -> abi::FlowKey {
    abi::FlowKey {
        remote: addr(remote),
        remote_port,
        port,
        pad: 0,
    }
}

/// A flow of the tenant's in a state, last used now.
fn flow_in(state: u32, now: u64) -> abi::Flow {
    abi::Flow {
        tenant: TENANT,
        lease: 1,
        state,
        last_ns: now,
        ..abi::Flow::default()
    }
}
