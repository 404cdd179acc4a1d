//! What the maps hold.

use std::collections::{HashMap, HashSet};

use totoro_ebpf::abi::{
    Addr, Ban, Config, Control, ControlKey, EVENT_REFUSED, Event, Flow, FlowKey, Lease,
    OutboundKey, PortKey, PortUsage, ReasonKey, SourceKey, TCP, Tenant, UDP, Usage, VERSION,
};

use crate::{Outcome, Refusal, Span};

/// A value of the kernel's with the moment that it keeps (`last_ns` or a budget's arrival time), which
/// counts in place of the value's own field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timed<T> {
    /// The value.
    pub is: T,
    /// The moment.
    pub at: Span,
}

/// The two cells of `SKETCH` that a source has at a port under a seed, by their index. A hash is none of the
/// model's business: whoever makes a world gives it.
pub type Cells = fn(&Addr, PortKey, u64) -> [u32; 2];

/// An event, but for its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// With `at_ns` 0.
    pub event: Event,
    /// When.
    pub at: Span,
}

/// What the maps hold, by their names (docs/bpf-maps.md).
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is the map of its name")]
pub struct World {
    pub config: Config,
    /// Protocol and port; frps's own too.
    pub pool: HashSet<(u8, u16)>,
    pub locals: HashSet<Addr>,
    /// By prefix length (IPv4: + 96) and address.
    pub bans: HashMap<(u32, Addr), Ban>,
    pub ports: HashMap<PortKey, Lease>,
    /// With the SYN budget's arrival time.
    pub port_usage: HashMap<PortKey, Timed<PortUsage>>,
    pub tenants: HashMap<u32, Tenant>,
    /// With `last_ns`.
    pub usage: HashMap<u32, Timed<Usage>>,
    pub flows_closed: HashMap<u32, u64>,
    /// How many, with `last_ns`.
    pub sources: HashMap<SourceKey, Timed<u64>>,
    pub flows: HashMap<FlowKey, Flow>,
    pub candidates: HashMap<FlowKey, Flow>,
    /// Of `flows`, those that are noted.
    pub answered: HashSet<FlowKey>,
    pub outbound: HashMap<OutboundKey, Span>,
    pub control: HashMap<ControlKey, Control>,
    /// Cells that are not zero.
    pub sketch: HashMap<u32, Span>,
    /// How many on this processor, with `last_ns`.
    pub reasons: HashMap<ReasonKey, Timed<u64>>,
    /// Which cells a source has at a port.
    pub cells: Cells,
}

/// A packet's ends, as it is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) tenant: u32,
    pub(crate) lease: u64,
    pub(crate) remote: Addr,
    pub(crate) remote_port: u16,
    pub(crate) port: u16,
    pub(crate) proto: u8,
}

impl World {
    /// Maps that are empty but for the configuration, which is `config`.
    #[must_use]
    pub fn new(config: Config, cells: Cells) -> Self {
        World {
            config,
            pool: HashSet::new(),
            locals: HashSet::new(),
            bans: HashMap::new(),
            ports: HashMap::new(),
            port_usage: HashMap::new(),
            tenants: HashMap::new(),
            usage: HashMap::new(),
            flows_closed: HashMap::new(),
            sources: HashMap::new(),
            flows: HashMap::new(),
            candidates: HashMap::new(),
            answered: HashSet::new(),
            outbound: HashMap::new(),
            control: HashMap::new(),
            sketch: HashMap::new(),
            reasons: HashMap::new(),
            cells,
        }
    }

    /// Whether the daemon has written a configuration of this ABI. The programs stand aside until then.
    pub(crate) fn is_configured(&self) -> bool {
        self.config.abi == VERSION
    }

    /// Whether a port is lent at all, or frps's own.
    pub(crate) fn guards(&self, proto: u8, port: u16) -> bool {
        self.pool.contains(&(proto, port))
    }

    /// Whether a port is frps's own.
    pub(crate) fn is_control(&self, proto: u8, port: u16) -> bool {
        proto == TCP && u32::from(port) == self.config.bind_port
    }

    /// Whether an address is banned now. The longest prefix counts and no other: the daemon has each
    /// ban last as long as the wider ones around it.
    pub(crate) fn is_banned(&self, addr: &Addr, now: Span) -> Result<bool, crate::Unsure> {
        let longest = (0..=128).rev().find_map(|length| {
            let masked = u128::from_be_bytes(*addr) & mask(length);
            self.bans.get(&(length, masked.to_be_bytes()))
        });
        match longest {
            None => Ok(false),
            Some(ban) => Ok(!now.ends(ban.until_ns)?),
        }
    }

    /// Whether a datagram answers one that left the node from its port less than three minutes ago.
    pub(crate) fn is_answer(&self, key: &OutboundKey, now: Span) -> Result<bool, crate::Unsure> {
        const STREAM: u64 = 180_000_000_000;
        let Some(sent) = self.outbound.get(key) else {
            return Ok(false);
        };
        // Not after the last moment of the three minutes.
        now.is_after(sent.later(STREAM - 1)).map(|over| !over)
    }

    /// Counts a refusal, and tells of the 1st, 2nd, 4th, 8th … of a tenant and reason.
    pub(crate) fn refuse(&mut self, subject: &Subject, reason: u32, now: Span) -> Outcome {
        let key = ReasonKey {
            tenant: subject.tenant,
            reason,
        };
        let row = self.reasons.entry(key).or_default();
        row.is += 1;
        row.at = now;
        let told = row.is.is_power_of_two().then(|| Told {
            event: Event {
                lease: subject.lease,
                remote: subject.remote,
                remote_port: subject.remote_port,
                port: subject.port,
                kind: EVENT_REFUSED,
                reason,
                tenant: subject.tenant,
                proto: subject.proto,
                ..Event::default()
            },
            at: now,
        });
        Outcome {
            refused: Some(Refusal {
                tenant: subject.tenant,
                reason,
            }),
            rewritten: None,
            told,
        }
    }
}

/// The bits of a prefix.
const fn mask(length: u32) -> u128 {
    if length == 0 {
        0
    } else {
        u128::MAX << (128 - length)
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64.
pub(crate) fn source(addr: &Addr) -> Addr {
    let is_v4 = addr[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let mut source = *addr;
    if !is_v4 {
        source[8..].fill(0);
    }
    source
}

/// The key of a port.
pub(crate) const fn port_key(proto: u8, port: u16) -> PortKey {
    PortKey {
        port,
        proto,
        pad: 0,
    }
}

/// Whether a protocol has ports that are lent.
pub(crate) const fn has_ports(proto: u8) -> bool {
    proto == TCP || proto == UDP
}
