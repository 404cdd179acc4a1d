//! Bans and budgets.

use totoro_api::Reason;
use totoro_ebpf::abi::{self, FLOW_ANSWERED, TCP, UDP};
use totoro_model::Span;

use super::*;
use crate::build::{flag, packet};

/// The small lease's budget is used up.
pub(super) fn spend(world: &mut World, now: u64) {
    for proto in [TCP, UDP] {
        let usage = world.port_usage.entry(key(proto, SMALL)).or_default();
        usage.at = Span::exactly(now + HOUR);
    }
}

/// One new flow an hour of each source to a port, with a burst of two.
fn limited(world: &mut World, _now: u64) {
    world.config.source_interval_ns = HOUR;
    world.config.source_burst_ns = 2 * HOUR;
}

/// The same, and the user has used up what its /64 has at a TCP port in these of its two cells.
fn spent(port: u16, which: &'static [usize]) -> impl Fn(&mut World, u64) {
    move |world, now| {
        limited(world, now);
        let mut source = addr(USER6);
        source[8..].fill(0);
        let both = cells(&source, key(TCP, port), world.config.sketch_seed);
        for nth in which {
            world
                .sketch
                .insert(both[*nth], Span::exactly(now + 2 * HOUR));
        }
    }
}

/// Bans and budgets.
pub(super) fn section(now: u64) -> Section {
    let tcp = |from: IpAddr, port| {
        let to = if from.is_ipv6() { NODE6 } else { NODE4 };
        packet(from, to, TCP, port)
    };
    let udp = |from, port| packet(from, NODE4, UDP, port);
    let row = |what, packet: Packet| frame(what, &packet, now);
    let ban = |length, of, until: fn(u64) -> u64| {
        move |world: &mut World, now: u64| {
            let until_ns = until(now);
            world.bans.insert(prefix(length, of), abi::Ban { until_ns });
        }
    };
    let rows = vec![
        row("banned by an IPv4 prefix", tcp(BANNED4, LEASED)).refused(TENANT, Reason::ClientBanned),
        row("banned by an IPv6 prefix", tcp(BANNED6, LEASED)).refused(TENANT, Reason::ClientBanned),
        row("banned, a datagram", udp(BANNED4, LEASED)).refused(TENANT, Reason::ClientBanned),
        row("banned, frps's own port", tcp(BANNED4, FRPS)).refused(0, Reason::ClientBanned),
        row(
            "banned, a port without a lease: no lease comes first",
            tcp(BANNED4, FREE),
        )
        .refused(0, Reason::NoLease),
        row("banned, ssh: none of our business", tcp(BANNED4, SSH)),
        row(
            "banned, but no opening",
            tcp(BANNED4, LEASED).with(|p| p.flags = flag::ACK),
        ),
        row(
            "banned, a flow that was answered: the ban has ended it by now, or will",
            udp(BANNED4, LEASED),
        )
        .given(|world, now| {
            let known = flow(BANNED4, 40_000, LEASED);
            world.flows.insert(known, flow_in(FLOW_ANSWERED, now));
        }),
        row("a ban that is over", tcp(USER4, LEASED)).given(ban(32, USER4, |now| now)),
        row("one that is not yet", tcp(USER4, LEASED))
            .given(ban(32, USER4, |now| now + HOUR))
            .refused(TENANT, Reason::ClientBanned),
        row(
            "the longest prefix counts alone: the daemon has none end before a wider one",
            tcp(BANNED4, LEASED),
        )
        .given(ban(32, BANNED4, |now| now.saturating_sub(S).max(1))),
        row("within the lease's budget of SYNs", tcp(USER4, SMALL))
            .changes(&["PORT_USAGE tcp 20002"]),
        row("above it", tcp(USER4, SMALL))
            .given(spend)
            .refused(TENANT, Reason::ConnRate),
        row("neighbours of a flooded port", tcp(USER4, LEASED)).given(spend),
        row("within the lease's budget of new flows", udp(USER4, SMALL))
            .changes(&["PORT_USAGE udp 20002"]),
        row("above that", udp(USER4, SMALL))
            .given(spend)
            .refused(TENANT, Reason::ConnRate),
        row(
            "a budget whose state the daemon has not made yet",
            tcp(USER4, SMALL),
        )
        .given(|world, _| {
            world.port_usage.remove(&key(TCP, SMALL));
        }),
        row("the first new flow of a source", tcp(USER6, LEASED))
            .given(limited)
            .changes(&["SKETCH: 2 of its cells"]),
        row("one too many, in both of its cells", tcp(USER6, LEASED))
            .given(spent(LEASED, &[0, 1]))
            .refused(TENANT, Reason::RateLimited),
        row("a cell that it shares with who floods", tcp(USER6, LEASED))
            .given(spent(LEASED, &[0]))
            .changes(&["SKETCH: 1 of its cells"]),
        row(
            "another address of the /64 that was too fast",
            tcp("2001:db8:1:0:ffff::1".parse().expect("an address"), LEASED),
        )
        .given(spent(LEASED, &[0, 1]))
        .refused(TENANT, Reason::RateLimited),
        row(
            "its neighbour /64",
            tcp("2001:db8:1:1::7".parse().expect("an address"), LEASED),
        )
        .given(spent(LEASED, &[0, 1]))
        .changes(&["SKETCH: 2 of its cells"]),
        row("the same source at another port", tcp(USER6, SMALL))
            .given(spent(LEASED, &[0, 1]))
            .changes(&["PORT_USAGE tcp 20002", "SKETCH: 2 of its cells"]),
        row(
            "a source that is too fast spends nothing of the lease",
            tcp(USER6, SMALL),
        )
        .given(spent(SMALL, &[0, 1]))
        .refused(TENANT, Reason::RateLimited),
        row(
            "a flood to a port without a lease spends nothing",
            tcp(USER4, FREE),
        )
        .given(limited)
        .refused(0, Reason::NoLease),
    ];
    Section {
        title: "Bans and budgets",
        about: "XDP and TC ingress. Budgets are spent here, by what opens a flow to a leased port.",
        rows,
    }
}
