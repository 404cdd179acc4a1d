//! UDP of leased ports: judged datagram by datagram, and reply-only.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use totoro_api::Reason;
use totoro_ebpf::abi::{Addr, FlowKey, Lease, PortKey, Tenant, UDP, v4_mapped};
use totoro_ebpf::logic::admit::{cut, lapsed, open};

use super::meter::{Way, count, tag};
use super::{config, flows, shield};
use crate::maps::{PORTS, TENANTS};
use crate::verdict::{Subject, lately, refuse};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;

/// Entry point for UDP sends over IPv4 (from dual-stack sockets too).
#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn totoro_send4(ctx: SockAddrContext) -> i32 {
    // SAFETY: a field of the context, read once and in full.
    let ip = unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip4) };
    may_send(&ctx, v4_mapped(ip.to_ne_bytes()))
}

/// Entry point for UDP sends over IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn totoro_send6(ctx: SockAddrContext) -> i32 {
    // SAFETY: a field of the context, read word by word.
    let remote = unsafe { super::conns::words(&raw const (*ctx.sock_addr).user_ip6) };
    may_send(&ctx, remote)
}

/// A datagram of a leased port: the reason to drop it, or 0. `ingress` is the interface that it came
/// in by.
#[inline(always)]
pub(super) fn datagram(subject: &mut Subject, ingress: u32, way: Way, bytes: u64) -> u32 {
    let key = PortKey {
        port: subject.port,
        proto: UDP,
        pad: 0,
    };
    // SAFETY: values are read while the program runs.
    let Some(lease) = (unsafe { PORTS.get(&key) }) else {
        // A program that bound a pool-numbered port without a lease: its own affair. What was
        // bound under a lease that is gone is not.
        return if subject.tenant == 0 {
            0
        } else {
            Reason::NoLease.number()
        };
    };
    // 0: bound before the lease was known.
    let bound = if subject.lease == 0 {
        lease.lease
    } else {
        subject.lease
    };
    subject.tenant = lease.tenant;
    subject.lease = lease.lease;
    // SAFETY: as above.
    let Some(tenant) = (unsafe { TENANTS.get(&subject.tenant) }) else {
        return Reason::InviteUnknown.number();
    };
    let at = lately();
    let mut reason = cut(tenant, at);
    if reason == 0 {
        reason = lapsed(lease, bound, at);
    }
    if reason != 0 {
        return reason;
    }
    let flow = subject.flow();
    let reason = match way {
        Way::Out => flows::sent(&flow, subject, tenant, bytes, at),
        Way::In if flows::received(&flow, bytes, at) => 0,
        Way::In => {
            let reason = opens(&flow.remote, ingress, lease, tenant, at);
            if reason == 0 {
                flows::begin(&flow, subject, bytes, at);
            }
            reason
        }
    };
    if reason == 0 {
        count(subject.tenant, subject.port, UDP, way, bytes);
    }
    reason
}

/// Whether a datagram may begin a flow: the reason why not, or 0. The socket lookup has judged most
/// of them already, but broadcast and multicast never reach it.
#[inline(always)]
fn opens(remote: &Addr, ingress: u32, lease: &Lease, tenant: &Tenant, at: u64) -> u32 {
    if ingress != LOOPBACK && flows::is_forged(remote) {
        return Reason::ReplyOnly.number();
    }
    let hold = config().map_or(0, |config| config.hold);
    let reason = open(hold, lease, tenant, at);
    if reason == 0 && shield::banned(remote) {
        return Reason::ClientBanned.number();
    }
    reason
}

/// Whether a socket may send a datagram to `remote`: only to who wrote to that port first. So
/// nothing of the node's loopback, link-local or own addresses is ever reached through it.
#[inline(always)]
fn may_send(ctx: &SockAddrContext, remote: Addr) -> i32 {
    // SAFETY: the context's socket, and its fields read once and in full.
    let (tag, remote_port) = unsafe {
        let tag = tag((*ctx.sock_addr).__bindgen_anon_1.sk);
        (
            tag,
            core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_port),
        )
    };
    let Some(tag) = tag else { return ALLOW };
    let key = PortKey {
        port: tag.port,
        proto: UDP,
        pad: 0,
    };
    // SAFETY: a lookup whose value is not used.
    let leased = unsafe { PORTS.get(&key) }.is_some();
    if tag.proto != UDP || (tag.tenant == 0 && !leased) {
        return ALLOW;
    }
    // `user_port` is a network-order port in the low half of a native word.
    let remote_port = u16::from_be(remote_port as u16);
    let flow = FlowKey {
        remote,
        remote_port,
        port: tag.port,
        pad: 0,
    };
    let reason = flows::may_send(&flow);
    if reason == 0 {
        return ALLOW;
    }
    let subject = Subject {
        tenant: tag.tenant,
        lease: tag.lease,
        remote,
        remote_port,
        port: tag.port,
        proto: UDP,
    };
    refuse(reason, &subject);
    DENY
}
