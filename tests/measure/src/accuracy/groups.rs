//! Who is burst upon at once, and which limit bites: an invite's connections, those of one source, its rate,
//! all anonymous visitors', the node's.

use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use totoro_ebpf::abi::{NODE, TCP};
use totoro_node::kernel::Inspector;
use totoro_tests::lab::Process;

use super::field::SOURCES;
use super::visitors::{CEILING, VISITOR};

/// A rate that no burst reaches.
const FREE: u32 = 100_000;
/// A total of the node that is never reached: only where one is set, all connections are counted.
const UNREACHED: &str = "20000";
/// What the node may have, and each of two invites, which is more than half of it.
const TOTAL: u32 = 100;
const EACH: u32 = 200;

/// Bursts that are for other limits than an invite's connections: smaller ones reach none; of larger ones the
/// shield drops some, and for the same reason as a rate.
const OTHERS: RangeInclusive<usize> = 100..=1_000;

/// So few connections may be that a crowd's first users have them all.
pub(super) const FEW: u32 = 5;

/// A node, and what its tenants may have.
pub(super) struct Plan {
    /// Its lab's name.
    pub(super) name: &'static str,
    /// `max_conns_total`.
    pub(super) total: &'static str,
    pub(super) invites: Vec<Invite>,
    /// Whether two anonymous visitors come, too.
    pub(super) visitors: bool,
}

/// What an invite may have.
#[derive(Clone, Copy)]
pub(super) struct Invite {
    pub(super) max: u32,
    /// Of one source; 0 = no less than of all.
    per_source: u32,
    /// New ones in a second, and at once; 0 = as many as like.
    rate: u32,
}

/// Tenants that are burst upon at once, and what they may have together.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) max: u32,
    pub(super) tenants: Vec<Tenant>,
    /// What one source may have of one of them.
    pub(super) per_source: Option<u32>,
    /// What each of them may take in a second, and at once.
    pub(super) rate: Option<u32>,
    /// The number in the kernel whose limit `max` is.
    pub(super) number: u32,
    /// Which bursts it is for.
    pub(super) bursts: RangeInclusive<usize>,
}

/// A tenant that frpc uses.
pub(super) struct Tenant {
    /// What it may have of connections.
    pub(super) max: u32,
    pub(super) port: u16,
    /// Its number in the kernel, and its parent's.
    pub(super) number: u32,
    pub(super) parent: u32,
    pub(super) frpc: Process,
}

/// The nodes of the suite: one where each tenant has its own limits, one whose own is below its tenants'.
pub(super) fn plans(limits: &[u32]) -> Vec<Plan> {
    let alone = limits.iter().map(|max| Invite::of(*max));
    let mut invites: Vec<Invite> = alone.collect();
    let (per_source, rate) = (5, 50);
    // Sixteen sources and one of IPv6 may have 85 together: of 100 no place is missing, of 50 some are.
    invites.extend([100, 50].map(|max| Invite {
        per_source,
        ..Invite::of(max)
    }));
    invites.push(Invite {
        rate,
        ..Invite::of(10_000)
    });
    let own = Plan {
        name: "acc-bursts",
        total: UNREACHED,
        invites,
        visitors: true,
    };
    let nodes = Plan {
        name: "acc-total",
        total: "100",
        invites: vec![Invite::of(EACH); 2],
        visitors: false,
    };
    vec![own, nodes]
}

impl Invite {
    fn of(max: u32) -> Invite {
        Invite {
            max,
            per_source: 0,
            rate: 0,
        }
    }

    /// As the control plane takes it.
    pub(super) fn limits(&self) -> Value {
        let or = |limit, other| if limit == 0 { other } else { limit };
        json!({ "max_conns": self.max, "max_conns_per_source": or(self.per_source, self.max),
            "conn_rate": or(self.rate, FREE), "max_proxies": 1 })
    }

    fn name(&self) -> String {
        let mut name = format!("max_conns {}", self.max);
        if self.per_source != 0 {
            name += &format!(", {} a source", self.per_source);
        }
        if self.rate != 0 {
            name = format!("conn_rate {}", self.rate);
        }
        name
    }
}

impl Plan {
    /// Who is burst upon at once: each invite by itself, or all of them where the node's limit is below theirs;
    /// then the visitors.
    pub(super) fn groups(&self, mut tenants: Vec<Tenant>) -> Vec<Group> {
        let visitors = tenants.split_off(self.invites.len());
        if !self.visitors {
            return vec![Group {
                name: format!("2 × max_conns {EACH} below max_conns_total {TOTAL}"),
                max: TOTAL,
                number: NODE,
                bursts: OTHERS,
                ..Group::of(tenants)
            }];
        }
        let alone = tenants.into_iter().zip(&self.invites);
        let alone = alone.map(|(tenant, invite)| {
            let some = |limit| (limit != 0).then_some(limit);
            let bursts = match (invite.per_source, invite.rate) {
                (0, 0) => 0..=usize::MAX,
                _ => OTHERS,
            };
            Group {
                name: invite.name(),
                per_source: some(invite.per_source),
                rate: some(invite.rate),
                bursts,
                ..Group::of(vec![tenant])
            }
        });
        let mut groups: Vec<Group> = alone.collect();
        groups.push(Group {
            name: format!("2 × max_conns {VISITOR} below {CEILING}"),
            max: CEILING,
            number: visitors.first().map_or(0, |one| one.parent),
            ..Group::of(visitors)
        });
        groups
    }
}

impl Group {
    /// Without a limit but their own.
    fn of(tenants: Vec<Tenant>) -> Group {
        Group {
            name: String::new(),
            max: tenants.iter().map(|one| one.max).sum(),
            number: tenants.first().map_or(0, |one| one.number),
            tenants,
            per_source: None,
            rate: None,
            bursts: 0..=usize::MAX,
        }
    }

    /// Whether a burst of so many, and the same again while every other of those who were admitted ends, is more than
    /// there is room for.
    pub(super) fn is_beyond(&self, count: usize) -> bool {
        let is_few = |one: u32| count + count / 2 > one as usize;
        is_few(self.rate.unwrap_or(self.max)) || self.per_source.is_some_and(is_few)
    }

    /// Their ports.
    pub(super) fn ports(&self) -> Vec<u16> {
        self.tenants.iter().map(|one| one.port).collect()
    }

    /// Whether its limit is not the only one that bites: a connection takes its tenant's place before its
    /// source's is judged, and meanwhile somebody else may be refused for want of it.
    pub(super) fn has_two_limits(&self) -> bool {
        // All of the wire's IPv6 addresses are one more.
        let sources = SOURCES.len() as u32 + 1;
        self.per_source.is_some_and(|one| self.max < one * sources)
    }
}

/// Who has the ports.
///
/// # Errors
/// A port is not leased, or its tenant may have something else.
pub(super) fn tenants(
    kernel: &Inspector,
    running: Vec<(u32, u16, Process)>,
) -> Result<Vec<Tenant>> {
    let ports = kernel.ports()?;
    let tenants = running.into_iter().map(|(max, port, frpc)| {
        let mut leases = ports.iter();
        let leased = leases.find(|(key, ..)| (key.proto, key.port) == (TCP, port));
        let number = leased.with_context(|| format!("{port} is not leased"))?;
        let number = number.1.tenant;
        let policy = kernel.tenant(number)?;
        let policy = policy.with_context(|| format!("{port} is nobody's"))?;
        ensure!(policy.max_conns == max, "{port}: {policy:?}");
        Ok(Tenant {
            max,
            port,
            number,
            parent: policy.parent,
            frpc,
        })
    });
    tenants.collect()
}
