//! Classes of packets, who is measured by each, and what the goals say.

use crate::packets::{FREE, LEASED, OTHERS, V4, V6, arp, datagram, segment, sent_by, syn};
use crate::programs::{Packets, SOURCES};
use crate::shield::{self, Node, UDP_PORTS};

/// XDP's verdicts.
pub(crate) const DROP: u32 = 1;
pub(crate) const PASS: u32 = 2;

/// What the goals say, ns over the empty program, by class.
pub(crate) const NOT_OURS: f64 = 10.0;
const ESTABLISHED: f64 = 15.0;
const SYN: f64 = 60.0;
const SYN_WITH_BANS: f64 = 150.0;

pub(crate) const NOTHING: &str = "empty program";
pub(crate) const ONE_RULE: &str = "xdp-filter, 1 rule";
pub(crate) const MANY_RULES: &str = "xdp-filter, 10,000 rules";
pub(crate) const ADDRESSES: &str = "xdp-filter, 10,000 addresses";
pub(crate) const LEAN: &str = "xdp-filter -f tcp, 1 rule";
/// xdp-filter in front of TCP and of UDP; and where single addresses are banned.
const OF_TCP: &[&str] = &[ONE_RULE, MANY_RULES, LEAN];
const OF_UDP: &[&str] = &[ONE_RULE, MANY_RULES];
const OF_BANS: &[&str] = &[ADDRESSES, LEAN];
const OF_BANNED: &[&str] = &[ADDRESSES];

/// How much a node has.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) leases: u32,
    /// Who have as many each.
    pub(crate) tenants: u32,
}

/// The sizes of a node: each lease of a tenant of its own, and all of one tenant.
pub(crate) const SIZES: [Size; 4] = [
    Size::of(1, 1),
    Size::of(1_000, 1_000),
    Size::of(65_536, 1),
    Size::of(65_536, 65_536),
];
/// The place of the last.
pub(crate) const FULL: usize = 3;

impl Size {
    const fn of(leases: u32, tenants: u32) -> Size {
        Size { leases, tenants }
    }

    pub(crate) fn words(self) -> String {
        let of = if self.tenants < self.leases {
            " of one tenant"
        } else {
            ""
        };
        format!("{} leases{of}", self.leases)
    }
}
pub(crate) const BANS: u32 = 10_000;

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// A node of that size.
    Totoro(usize),
    /// The full node, with bans.
    Banning,
    /// The same, where one of the bans is of a whole network.
    BanningWide,
    /// The full node, where each packet is the one in 128 ticks that reads the clock.
    ReadsClock,
    /// The full node, with all budgets spent.
    Flooded,
    /// The full node, where many new UDP flows wait for their answer.
    Waiting,
    /// The full node, with bans of so many of the driver's own senders.
    BanningSenders,
    /// The full node, with known UDP flows of so many sources: the nth of [`FLOWING`].
    Flowing(usize),
}

impl Who {
    /// The node that it is.
    pub(crate) fn node(self) -> Node {
        let full = Node {
            size: SIZES[FULL],
            bans: 0,
            has_wide_ban: false,
            is_spent: false,
            flows: 0,
            waiting: 0,
            bans_senders: false,
        };
        match self {
            Who::Totoro(size) => Node {
                size: SIZES[size],
                ..full
            },
            Who::ReadsClock => full,
            Who::Banning => Node { bans: BANS, ..full },
            Who::BanningWide => Node {
                bans: BANS,
                has_wide_ban: true,
                ..full
            },
            Who::Waiting => Node {
                waiting: WAITING,
                ..full
            },
            Who::BanningSenders => Node {
                bans: BANS,
                bans_senders: true,
                ..full
            },
            Who::Flowing(nth) => Node {
                flows: FLOWING[nth],
                ..full
            },
            Who::Flooded => Node {
                is_spent: true,
                ..full
            },
        }
    }
}

/// Sources of known flows: of 1,024, and of nearly as many as there may be.
pub(crate) const FLOWING: [u32; 2] = [1, 58];

/// New UDP flows that wait: nearly as many as may.
const WAITING: u32 = 16_000;

/// Packets of one kind.
pub(crate) struct Class {
    pub(crate) name: &'static str,
    pub(crate) packet: Vec<u8>,
    pub(crate) who: Who,
    pub(crate) verdict: u32,
    /// ns over the empty program.
    pub(crate) goal: Option<f64>,
    /// xdp-filter where it looks at such packets as Totoro does, and comes to the same verdict.
    pub(crate) filters: &'static [&'static str],
}

impl Class {
    /// A class of packets that pass a full node.
    fn of(name: &'static str, packet: Vec<u8>, goal: Option<f64>) -> Class {
        Class {
            name,
            packet,
            who: Who::Totoro(FULL),
            verdict: PASS,
            goal,
            filters: OF_TCP,
        }
    }

    /// The same, where a driver makes each packet another: what is not ours stays at a port that is not ours, and
    /// what is of a flow is of one of those that there are.
    pub(crate) fn driven(&self, packets: Packets) -> Packets {
        let of = |sources, first, count| Packets::Others {
            sources,
            first,
            count,
        };
        match self.who {
            Who::Flowing(nth) => of(FLOWING[nth], LEASED, UDP_PORTS.into()),
            Who::Waiting => of(SOURCES, LEASED, UDP_PORTS.into()),
            Who::BanningSenders => of(BANS, LEASED, UDP_PORTS.into()),
            _ if self.goal == Some(NOT_OURS) => of(SOURCES, OTHERS, 1),
            _ if self.verdict == DROP => of(SOURCES, FREE, 1),
            _ => packets,
        }
    }
}

/// What comes from many users or senders, each packet from another. Of as many known flows as there may be each is a
/// miss in the nearer caches, and 4 % are looked up: told, and judged beside xdp-filter alone, as what is new or comes
/// to no lease.
pub(crate) fn crowds() -> [Class; 5] {
    let of = |nth, name, goal| Class {
        who: Who::Flowing(nth),
        filters: OF_UDP,
        ..Class::of(name, datagram(V4, LEASED), goal)
    };
    [
        of(
            0,
            "established: UDP, IPv4, each of 1,024 flows",
            Some(ESTABLISHED),
        ),
        of(1, "established: UDP, IPv4, each of 59,392 flows", None),
        Class {
            who: Who::Waiting,
            ..of(0, "new UDP flow, IPv4, while 16,000 wait", None)
        },
        Class {
            verdict: DROP,
            ..Class::of("SYN to no lease: dropped, IPv4", syn(V4, FREE), None)
        },
        Class {
            who: Who::BanningSenders,
            verdict: DROP,
            filters: &[],
            ..Class::of(
                "10,000 bans: each of 10,000 banned senders, dropped, IPv4",
                syn(V4, LEASED),
                Some(SYN_WITH_BANS),
            )
        },
    ]
}

/// What users send.
pub(crate) fn classes() -> Vec<Class> {
    let class = Class::of;
    let dropped = |name, packet, who| Class {
        verdict: DROP,
        filters: &[],
        who,
        ..class(name, packet, None)
    };
    let banning = |class| Class {
        who: Who::Banning,
        filters: OF_BANS,
        ..class
    };
    let udp = |class| Class {
        filters: OF_UDP,
        ..class
    };
    vec![
        class("not ours: ARP", arp(), Some(NOT_OURS)),
        class("not ours: TCP, IPv4", segment(V4, OTHERS), Some(NOT_OURS)),
        class("not ours: TCP, IPv6", segment(V6, OTHERS), Some(NOT_OURS)),
        udp(class(
            "not ours: UDP, IPv4",
            datagram(V4, OTHERS),
            Some(NOT_OURS),
        )),
        class(
            "established: TCP, IPv4",
            segment(V4, LEASED),
            Some(ESTABLISHED),
        ),
        class(
            "established: TCP, IPv6",
            segment(V6, LEASED),
            Some(ESTABLISHED),
        ),
        udp(class(
            "established: UDP flow, IPv6",
            datagram(V6, LEASED),
            Some(ESTABLISHED),
        )),
        class("SYN to a lease, IPv4", syn(V4, LEASED), Some(SYN)),
        class("SYN to a lease, IPv6", syn(V6, LEASED), Some(SYN)),
        banning(class(
            "SYN to a lease, 10,000 bans, IPv4",
            syn(V4, LEASED),
            Some(SYN_WITH_BANS),
        )),
        // One in 128 ticks: told, and no goal.
        Class {
            who: Who::ReadsClock,
            filters: &[],
            ..class(
                "SYN to a lease that reads the clock, IPv4",
                syn(V4, LEASED),
                None,
            )
        },
        // What the goals of their siblings hold for too, where it costs more.
        Class {
            who: Who::BanningWide,
            ..banning(class(
                "SYN to a lease, 10,000 bans, one of them a /16, IPv4",
                syn(V4, LEASED),
                Some(SYN_WITH_BANS),
            ))
        },
        Class {
            goal: Some(SYN_WITH_BANS),
            filters: OF_BANNED,
            ..dropped(
                "10,000 bans: a banned sender, dropped",
                sent_by(shield::banned(BANS)[BANS as usize / 2], syn(V4, LEASED)),
                Who::Banning,
            )
        },
        udp(class("new UDP flow, IPv4", datagram(V4, LEASED), None)),
        Class {
            filters: OF_TCP,
            ..dropped("SYN to no lease: dropped", syn(V4, FREE), Who::Totoro(FULL))
        },
        dropped(
            "SYN over its source's budget: dropped",
            syn(V4, LEASED),
            Who::Flooded,
        ),
    ]
}
