//! The socket lookup.

use totoro_api::Reason;
use totoro_ebpf::abi::{
    self, CUT, FLOW_ANSWERED, FLOW_CONFIRMED, FLOW_RECYCLED, HELD, SOURCE_CONNS, SOURCE_FLOWS, TCP,
    UDP,
};
use totoro_model::Span;

use super::*;

/// The loopback's own, IPv6.
const ZEROS: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

fn tenant(change: impl Fn(&mut abi::Tenant, u64)) -> impl Fn(&mut World, u64) {
    move |world, now| change(world.tenants.get_mut(&TENANT).expect("the base's"), now)
}

fn usage(change: impl Fn(&mut abi::Usage)) -> impl Fn(&mut World, u64) {
    move |world, _| change(&mut world.usage.get_mut(&TENANT).expect("the base's").is)
}

fn held(state: u32, reason: Reason) -> impl Fn(&mut World, u64) {
    tenant(move |tenant, _| (tenant.state, tenant.reason) = (state, reason.number()))
}

fn past(now: u64) -> u64 {
    now.saturating_sub(S).max(1)
}

/// The user's flow to the leased port, in a state.
fn flows(world: &mut World, now: u64) {
    let known = flow(USER4, 40_000, LEASED);
    world.flows.insert(known, flow_in(FLOW_ANSWERED, now));
}

/// Another's flow to the leased port, in a state, that is noted.
fn noted(state: u32) -> impl Fn(&mut World, u64) {
    noted_of(TENANT, 0, state)
}

/// The same to some tenant's port.
fn noted_of(tenant: u32, parent: u32, state: u32) -> impl Fn(&mut World, u64) {
    let other = "198.51.100.8".parse().expect("an address");
    noted_from(other, tenant, parent, state)
}

/// The user's own, from another port of theirs.
fn own(state: u32) -> impl Fn(&mut World, u64) {
    noted_from(USER4, TENANT, 0, state)
}

/// The same, from another address.
fn noted_from(from: IpAddr, tenant: u32, parent: u32, state: u32) -> impl Fn(&mut World, u64) {
    move |world, now| {
        let other = flow(from, 1, LEASED);
        let known = abi::Flow {
            tenant,
            parent,
            ..flow_in(state, now)
        };
        world.flows.insert(other, known);
        world.answered.insert(other);
    }
}

fn ended_lease(world: &mut World, now: u64) {
    for proto in [TCP, UDP] {
        let expires_ns = past(now);
        world.ports.insert(
            key(proto, LEASED),
            abi::Lease {
                expires_ns,
                ..lease(1)
            },
        );
    }
}

/// What a source has of a tenant.
fn has(remote: IpAddr, tenant: u32, kind: u32, conns: u64) -> impl Fn(&mut World, u64) {
    move |world, now| {
        let mut prefix = addr(remote);
        if remote.is_ipv6() {
            prefix[8..].fill(0);
        }
        let key = abi::SourceKey {
            prefix,
            tenant,
            kind,
        };
        let at = Span::exactly(now);
        world.sources.insert(key, Timed { is: conns, at });
    }
}

/// Who is admitted at all.
pub(super) fn leases(now: u64) -> Section {
    let tcp = |what| look_up(what, USER4, TCP, LEASED, now);
    let udp = |what| look_up(what, USER4, UDP, LEASED, now);
    let pool_held = |world: &mut World, _: u64| world.config.hold = Reason::Internal.number();
    let rows = vec![
        tcp("a leased port"),
        look_up("a leased port, IPv6", USER6, TCP, LEASED, now),
        udp("a leased port, UDP"),
        look_up("a port without a lease", USER4, TCP, FREE, now).refused(0, Reason::NoLease),
        look_up("the same, UDP", USER4, UDP, FREE, now).refused(0, Reason::NoLease),
        look_up("a port outside of the pool", USER4, TCP, SSH, now),
        look_up("frps's own port", USER4, TCP, FRPS, now),
        look_up("frps's own port, banned", BANNED4, TCP, FRPS, now)
            .refused(0, Reason::ClientBanned),
        look_up(
            "frps's own port, all connections that a source may have",
            USER4,
            TCP,
            FRPS,
            now,
        )
        .given(|world, _| world.config.control_per_source = 2)
        .given(has(USER4, 0, SOURCE_CONNS, 2))
        .refused(0, Reason::RateLimited),
        tcp("a lease whose tenant is gone")
            .given(|world, _| {
                world.tenants.remove(&TENANT);
            })
            .refused(TENANT, Reason::NoLease),
        tcp("before the daemon has written a configuration")
            .given(|world, _| world.config = abi::Config::default()),
        tcp("the whole pool is held")
            .given(pool_held)
            .refused(TENANT, Reason::Internal),
        tcp("the whole pool is held, and the daemon's canary tries it")
            .given(pool_held)
            .given(|world, _| {
                let ours = abi::Lease {
                    tenant: abi::CANARY,
                    ..lease(1)
                };
                world.ports.insert(key(TCP, LEASED), ours);
                let tenant = world.tenants[&TENANT];
                world.tenants.insert(abi::CANARY, tenant);
                let usage = world.usage[&TENANT];
                world.usage.insert(abi::CANARY, usage);
            }),
        tcp("paused")
            .given(held(HELD, Reason::InvitePaused))
            .refused(TENANT, Reason::InvitePaused),
        tcp("revoked")
            .given(held(CUT, Reason::InviteRevoked))
            .refused(TENANT, Reason::InviteRevoked),
        tcp("expired")
            .given(tenant(|tenant, now| tenant.expires_ns = past(now)))
            .refused(TENANT, Reason::InviteExpired),
        tcp("expires later").given(tenant(|tenant, now| tenant.expires_ns = now + HOUR)),
        tcp("the session is over")
            .given(ended_lease)
            .refused(TENANT, Reason::SessionExpired),
        tcp("the lease is held")
            .given(|world, _| {
                let hold = Reason::PublicFull.number();
                world
                    .ports
                    .insert(key(TCP, LEASED), abi::Lease { hold, ..lease(1) });
            })
            .refused(TENANT, Reason::PublicFull),
        look_up("banned", BANNED6, TCP, LEASED, now).refused(TENANT, Reason::ClientBanned),
        udp("what flows goes on under a paused tenant")
            .given(flows)
            .given(held(HELD, Reason::InvitePaused)),
        udp("and while the pool is held")
            .given(flows)
            .given(pool_held),
        udp("but not under a revoked one")
            .given(flows)
            .given(held(CUT, Reason::InviteRevoked))
            .refused(TENANT, Reason::InviteRevoked),
        udp("nor after the session's end")
            .given(flows)
            .given(ended_lease)
            .refused(TENANT, Reason::SessionExpired),
    ];
    Section {
        title: "Lookups: who is admitted",
        about: "sk_lookup, on every interface, for what finds no established socket. The kernel itself \
                answers what is dropped: RST, or ICMP port unreachable.",
        rows,
    }
}

/// Limits.
pub(super) fn limits(now: u64) -> Section {
    let tcp = |what| look_up(what, USER4, TCP, LEASED, now);
    let udp = |what| look_up(what, USER4, UDP, LEASED, now);
    let per_source = || tenant(|tenant, _| tenant.max_conns_per_source = 2);
    let rated = |arrival: fn(u64) -> u64| {
        move |world: &mut World, now: u64| {
            let tenant = world.tenants.get_mut(&TENANT).expect("the base's");
            (tenant.conn_interval_ns, tenant.conn_burst_ns) = (HOUR, 2 * HOUR);
            let usage = world.usage.get_mut(&TENANT).expect("the base's");
            usage.is.conn_tat_ns = arrival(now);
        }
    };
    let below = |conns, opened| {
        move |world: &mut World, _: u64| {
            world.tenants.get_mut(&TENANT).expect("the base's").parent = PARENT;
            let above = abi::Tenant {
                state: abi::ACTIVE,
                max_conns: 10,
                max_flows: 10,
                ..abi::Tenant::default()
            };
            world.tenants.insert(PARENT, above);
            let usage = abi::Usage {
                conns,
                flows_opened: opened,
                ..abi::Usage::default()
            };
            world.usage.insert(
                PARENT,
                Timed {
                    is: usage,
                    ..Timed::default()
                },
            );
        }
    };
    let node_has = |conns| {
        move |world: &mut World, _: u64| {
            world.config.max_conns_total = 9;
            world.usage.get_mut(&NODE).expect("the base's").is.conns = conns;
        }
    };
    let mut rows = vec![
        tcp("the fifth of five connections").given(usage(|usage| usage.conns = 4)),
        tcp("the sixth")
            .given(usage(|usage| usage.conns = 5))
            .refused(TENANT, Reason::MaxConns),
        udp("connections don't count for flows").given(usage(|usage| usage.conns = 5)),
        udp("the sixth of five flows")
            .given(usage(|usage| usage.flows_opened = 5))
            .refused(TENANT, Reason::MaxFlows),
        udp("in the place of one that was answered, and may not exist")
            .given(usage(|usage| usage.flows_opened = 5))
            .given(noted(FLOW_ANSWERED)),
        udp("of one that itself took another's")
            .given(usage(|usage| usage.flows_opened = 5))
            .given(noted(FLOW_RECYCLED)),
        udp("not of one that wrote again")
            .given(usage(|usage| usage.flows_opened = 5))
            .given(noted(FLOW_CONFIRMED))
            .refused(TENANT, Reason::MaxFlows),
        udp("of more that were opened some have ended")
            .given(usage(|usage| usage.flows_opened = 9))
            .given(|world, _| {
                world.flows_closed.insert(TENANT, 5);
            }),
        tcp("a source's third of two")
            .given(per_source())
            .given(has(USER4, TENANT, SOURCE_CONNS, 2))
            .refused(TENANT, Reason::MaxConnsPerSource),
        tcp("flows don't count for connections")
            .given(per_source())
            .given(has(USER4, TENANT, SOURCE_FLOWS, 2)),
        udp("a source's third flow of two")
            .given(per_source())
            .given(has(USER4, TENANT, SOURCE_FLOWS, 2))
            .refused(TENANT, Reason::MaxConnsPerSource),
        udp("in the place of one of its own that may not exist")
            .given(per_source())
            .given(has(USER4, TENANT, SOURCE_FLOWS, 2))
            .given(own(FLOW_ANSWERED)),
        udp("not of one of its own that wrote again")
            .given(per_source())
            .given(has(USER4, TENANT, SOURCE_FLOWS, 2))
            .given(own(FLOW_CONFIRMED))
            .refused(TENANT, Reason::MaxConnsPerSource),
        udp("nor of another source's")
            .given(per_source())
            .given(has(USER4, TENANT, SOURCE_FLOWS, 2))
            .given(noted(FLOW_ANSWERED))
            .refused(TENANT, Reason::MaxConnsPerSource),
        look_up("of its /64's", USER6, UDP, LEASED, now)
            .given(per_source())
            .given(has(USER6, TENANT, SOURCE_FLOWS, 2))
            .given(noted_from(
                "2001:db8:1::ffff".parse().expect("an address"),
                TENANT,
                0,
                FLOW_ANSWERED,
            )),
        // Its /64 is all zeros.
        look_up(
            "one of the loopback's in the place of its own",
            ZEROS,
            UDP,
            LEASED,
            now,
        )
        .given(per_source())
        .given(has(ZEROS, TENANT, SOURCE_FLOWS, 2))
        .given(noted_from(ZEROS, TENANT, 0, FLOW_ANSWERED)),
        look_up("not of another source's", ZEROS, UDP, LEASED, now)
            .given(per_source())
            .given(has(ZEROS, TENANT, SOURCE_FLOWS, 2))
            .given(noted(FLOW_ANSWERED))
            .refused(TENANT, Reason::MaxConnsPerSource),
        look_up("a /64 is one source", USER6, TCP, LEASED, now)
            .given(per_source())
            .given(has(
                "2001:db8:1::ffff".parse().expect("an address"),
                TENANT,
                SOURCE_CONNS,
                2,
            ))
            .refused(TENANT, Reason::MaxConnsPerSource),
        tcp("within the rate, which is not spent here").given(rated(|now| now + HOUR / 2)),
        tcp("above the rate")
            .given(rated(|now| now + 3 * HOUR / 2))
            .refused(TENANT, Reason::ConnRate),
        udp("the rate is of connections").given(rated(|now| now + 3 * HOUR / 2)),
        tcp("the node has room").given(node_has(8)),
        tcp("the node is full")
            .given(node_has(9))
            .refused(TENANT, Reason::NodeFull),
        udp("for connections").given(node_has(9)),
        tcp("all anonymous ones together have room").given(below(9, 0)),
        tcp("they have not")
            .given(below(10, 0))
            .refused(TENANT, Reason::PublicFull),
        udp("nor for flows")
            .given(below(0, 10))
            .refused(TENANT, Reason::PublicFull),
        udp("but in the place of one that may not exist, whosever it is")
            .given(below(0, 10))
            .given(noted_of(4, 1, FLOW_ANSWERED)),
        udp("not of one that wrote again, though all have that one's place")
            .given(below(0, 10))
            .given(noted_of(4, 1, FLOW_CONFIRMED))
            .refused(TENANT, Reason::PublicFull),
        udp("nor of one that is none of the parent's")
            .given(below(0, 10))
            .given(noted_of(4, 0, FLOW_ANSWERED))
            .refused(TENANT, Reason::PublicFull),
    ];
    // On a machine that has just started nothing is so old.
    if now > 200 * S {
        let idle = |world: &mut World, now: u64| {
            world.usage.get_mut(&NODE).expect("the base's").at = Span::exactly(now - 3 * S);
            world
                .usage
                .get_mut(&TENANT)
                .expect("the base's")
                .is
                .flows_opened = 5;
            let old = |state| abi::Flow {
                last_ns: now - 61 * S,
                ..flow_in(state, now)
            };
            let confirmed = flow("198.51.100.8".parse().expect("an address"), 1, LEASED);
            world.flows.insert(confirmed, old(FLOW_CONFIRMED));
            world
                .candidates
                .insert(flow(USER6, 2, LEASED), old(abi::FLOW_NEW));
            has(
                "198.51.100.8".parse().expect("an address"),
                TENANT,
                SOURCE_FLOWS,
                1,
            )(world, now);
        };
        rows.push(
            udp("while the daemon is away, who comes ends what is idle, which makes room")
                .given(idle)
                .changes(&[
                    "- CANDIDATES 2001:db8:1::7 port 2 to 20000",
                    "- FLOWS 198.51.100.8 port 1 to 20000",
                    "FLOWS_CLOSED 3",
                    "SOURCES 198.51.100.8 tenant 3 UDP",
                    "USAGE 0",
                ]),
        );
    }
    Section {
        title: "Lookups: limits",
        about: "sk_lookup. It reads limits and spends nothing, since stray segments reach it too.",
        rows,
    }
}
