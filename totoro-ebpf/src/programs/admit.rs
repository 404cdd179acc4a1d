//! sk_lookup: the authority. It runs on every interface for whatever finds no established socket,
//! and when it refuses, the kernel itself answers: RST for TCP, ICMP unreachable for UDP. It reads
//! limits and never spends them (see [`totoro_ebpf::logic::admit`]).

use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use totoro_api::Reason;
use totoro_ebpf::abi::{
    Addr, CANARY, NODE, OutboundKey, PortKey, SOURCE_CONNS, SOURCE_FLOWS, SOURCE_SITES, TCP, UDP,
};
use totoro_ebpf::logic::admit::{Standing, connection, counted, cut, lapsed, live_flows, open};
use totoro_ebpf::logic::prefix;

use super::conns::{either, of_site, words};
use super::{config, idle, is_answer, is_control, is_guarded, recycle, shield};
use crate::maps::{FLOWS, FLOWS_CLOSED, PORTS, SOURCES, TENANTS, USAGE};
use crate::verdict::{Subject, now, refuse};

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;
const AF_INET: u32 = 2;
/// What [`judge`] says when nobody has looked for what is idle for long.
const OVERDUE: u32 = u32::MAX;
/// With a reason of [`judge`]'s: one flow less would be room.
const FULL: u32 = 1 << 31;

/// Entry point.
#[sk_lookup]
pub(crate) fn totoro_admit(ctx: SkLookupContext) -> u32 {
    // SAFETY: fields of the context, each read once and in full.
    let (proto, port) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*ctx.lookup).protocol) as u8,
            core::ptr::read_volatile(&raw const (*ctx.lookup).local_port) as u16,
        )
    };
    if !is_guarded(proto, port) {
        return SK_PASS;
    }
    let (remote, local) = addresses(&ctx);
    // SAFETY: as above; network order in the low half of the word.
    let remote_port =
        u16::from_be(unsafe { core::ptr::read_volatile(&raw const (*ctx.lookup).remote_port) });
    let mut subject = Subject {
        tenant: 0,
        lease: 0,
        remote,
        remote_port,
        port,
        proto,
    };
    // What is idle takes nobody's place, whether the daemon is there or not, and what is not confirmed gives it up.
    // Looked for here, and not in `judge`: both frames and those of the look would pass the 512 bytes of stack.
    let mut reason = judge(&mut subject, &local, false);
    if reason == OVERDUE {
        idle::end(now(), 0);
        reason = judge(&mut subject, &local, true);
    }
    if reason & FULL != 0 {
        reason &= !FULL;
        let full = recycle::full_of(reason);
        if recycle::find(&subject.flow(), subject.tenant, full) != recycle::NONE {
            reason = 0;
        }
    }
    match reason {
        0 => SK_PASS,
        reason => {
            refuse(reason, &subject);
            SK_DROP
        }
    }
}

/// Remote and local address.
#[inline(always)]
fn addresses(ctx: &SkLookupContext) -> (Addr, Addr) {
    // SAFETY: fields of the context; volatile, so that adjacent 32-bit reads are not merged into
    // 64-bit ones, which the verifier refuses.
    unsafe {
        let at = ctx.lookup;
        let is_v6 = core::ptr::read_volatile(&raw const (*at).family) != AF_INET;
        let remote4 = core::ptr::read_volatile(&raw const (*at).remote_ip4);
        let local4 = core::ptr::read_volatile(&raw const (*at).local_ip4);
        let remote6 = words(&raw const (*at).remote_ip6);
        let local6 = words(&raw const (*at).local_ip6);
        (
            either(is_v6, remote6, remote4),
            either(is_v6, local6, local4),
        )
    }
}

/// The number of the reason to refuse (perhaps with [`FULL`]), or 0; or [`OVERDUE`], unless somebody has just
/// `looked`.
#[inline(never)]
fn judge(subject: &mut Subject, local: &Addr, looked: bool) -> u32 {
    let Some(config) = config() else { return 0 };
    if is_control(config, subject.proto, subject.port) {
        return control(config.control_per_source, subject);
    }
    let key = PortKey {
        port: subject.port,
        proto: subject.proto,
        pad: 0,
    };
    // SAFETY: values are read while the program runs; the daemon replaces entries whole.
    let Some(lease) = (unsafe { PORTS.get(&key) }) else {
        if subject.proto == UDP && is_answer(&outbound(subject, local)) {
            return 0;
        }
        return Reason::NoLease.number();
    };
    subject.tenant = lease.tenant;
    subject.lease = lease.lease;
    // SAFETY: as above.
    let Some(tenant) = (unsafe { TENANTS.get(&lease.tenant) }) else {
        return Reason::NoLease.number();
    };
    let at = now();
    if subject.proto == UDP {
        // SAFETY: a lookup whose value is not used.
        if unsafe { FLOWS.get(&subject.flow()) }.is_some() {
            // What flows goes on under a paused tenant, and ends with a cut one or its lease.
            return match cut(tenant, at) {
                0 => lapsed(lease, lease.lease, at),
                reason => reason,
            };
        }
    }
    let reason = open(config.hold, lease, tenant, at);
    if reason != 0 {
        return reason;
    }
    if shield::banned(&subject.remote) {
        return Reason::ClientBanned.number();
    }
    if !looked && idle::is_overdue(at) {
        return OVERDUE;
    }
    // SAFETY: as above.
    let Some(usage) = (unsafe { USAGE.get(&lease.tenant) }) else {
        return Reason::NoLease.number();
    };
    if subject.proto == TCP {
        let standing = Standing { tenant, usage };
        let from_source = count_of(&subject.remote, lease.tenant, SOURCE_CONNS);
        let reason = connection(standing, from_source, at);
        if reason != 0 {
            return reason;
        }
        if lease.tenant != CANARY && is_node_full(config.max_conns_total) {
            return Reason::NodeFull.number();
        }
    } else if count_of(&subject.remote, lease.tenant, SOURCE_FLOWS)
        >= tenant.max_conns_per_source as u64
    {
        return FULL | Reason::MaxConnsPerSource.number();
    } else if flows(lease.tenant, usage.flows_opened) >= tenant.max_flows as u64 {
        return FULL | Reason::MaxFlows.number();
    }
    if tenant.parent == 0 || has_room(tenant.parent, subject.proto) {
        0
    } else if subject.proto == UDP {
        FULL | Reason::PublicFull.number()
    } else {
        Reason::PublicFull.number()
    }
}

/// Whether the parent's ceiling leaves room.
#[inline(always)]
fn has_room(number: u32, proto: u8) -> bool {
    // SAFETY: as in `judge`.
    let (Some(tenant), Some(usage)) = (unsafe { (TENANTS.get(&number), USAGE.get(&number)) })
    else {
        return true;
    };
    if proto == TCP {
        usage.conns < tenant.max_conns as u64
    } else {
        flows(number, usage.flows_opened) < tenant.max_flows as u64
    }
}

/// Whether all tenants together have the connections that the node bears (0 = no limit).
#[inline(always)]
fn is_node_full(max: u32) -> bool {
    let node = NODE;
    // SAFETY: as in `judge`.
    max != 0 && unsafe { USAGE.get(&node) }.is_none_or(|usage| usage.conns >= max as u64)
}

/// frps's own port: bans, and a cap per source.
#[inline(always)]
fn control(per_source: u32, subject: &Subject) -> u32 {
    if shield::banned(&subject.remote) {
        Reason::ClientBanned.number()
    } else if per_source != 0
        && (count_of(&subject.remote, 0, SOURCE_CONNS) >= per_source as u64
            || count_of(&subject.remote, 0, SOURCE_SITES) >= of_site(per_source) as u64)
    {
        Reason::RateLimited.number()
    } else {
        0
    }
}

/// Live connections (or flows, by `kind`) of a source under a tenant (0 = to frps's own port).
#[inline(always)]
fn count_of(remote: &Addr, tenant: u32, kind: u32) -> u64 {
    let key = prefix::key(remote, tenant, kind);
    // SAFETY: as in `judge`.
    unsafe { SOURCES.get(&key) }.map_or(0, |source| counted(source.conns))
}

/// Live UDP flows of a tenant.
#[inline(always)]
pub(crate) fn flows(tenant: u32, opened: u64) -> u64 {
    // SAFETY: as in `judge`.
    let closed = unsafe { FLOWS_CLOSED.get(&tenant) }.copied().unwrap_or(0);
    live_flows(opened, closed)
}

/// The flow that a datagram would answer.
#[inline(always)]
fn outbound(subject: &Subject, local: &Addr) -> OutboundKey {
    OutboundKey {
        remote: subject.remote,
        local: *local,
        remote_port: subject.remote_port,
        local_port: subject.port,
        pad: 0,
    }
}
