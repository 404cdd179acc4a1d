//! cgroup_skb and sendmsg: bytes of tagged sockets, the cut of what was revoked or expired,
//! reply-only UDP. At the socket, so on every interface, reassembled, and nobody else's.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::{bpf_sk_fullsock, bpf_sk_storage_get};
use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr, stream_verdict};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use totoro_api::Reason;
use totoro_ebpf::abi::{
    Addr, FlowKey, Lease, PortKey, SURPLUS, SockTag, TCP, Tenant, Traffic, TrafficKey, UDP,
    v4_mapped,
};
use totoro_ebpf::logic::admit::cut;
use totoro_ebpf::packet::{FIN, Headers, Packet, RST, SYN};

use super::flows;
use super::tc::Skb;
use crate::maps::{PORTS, SOCKETS, TENANTS, TRAFFIC};
use crate::verdict::{Subject, now, refuse};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const SK_DROP: u32 = 0;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// Entry point for what a socket receives.
#[cgroup_skb(ingress)]
pub(crate) fn totoro_meter_in(ctx: SkBuffContext) -> i32 {
    if passes(&ctx, Way::In) { ALLOW } else { DENY }
}

/// Entry point for what a socket sends.
#[cgroup_skb(egress)]
pub(crate) fn totoro_meter_out(ctx: SkBuffContext) -> i32 {
    if passes(&ctx, Way::Out) { ALLOW } else { DENY }
}

/// A surplus connection receives nothing.
#[stream_verdict]
pub(crate) fn totoro_surplus(_ctx: SkBuffContext) -> u32 {
    SK_DROP
}

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

/// The tag of a socket, if it is one of ours.
///
/// # Safety
/// `sk` is a socket that the verifier knows, or null.
#[inline(always)]
unsafe fn tag(sk: *mut bpf_sock) -> Option<SockTag> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the map and a checked socket; the storage lives as long as the socket.
    unsafe {
        let tag = bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            0,
        )
        .cast::<SockTag>();
        if tag.is_null() { None } else { Some(*tag) }
    }
}

/// Whether a packet of a socket may pass.
#[inline(always)]
fn passes(ctx: &SkBuffContext, way: Way) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: the context's socket, made a full one by the helper, null-checked in between.
    let tag = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return true;
        }
        tag(bpf_sk_fullsock(sk))
    };
    let Some(tag) = tag else { return true };
    let packet = Skb(skb);
    let Some(headers) = Headers::from_ip(&packet) else {
        return true;
    };
    let Some((source, destination)) = headers.addresses(&packet) else {
        return true;
    };
    let (remote, remote_port) = match way {
        Way::In => (source, headers.source_port),
        Way::Out => (destination, headers.destination_port),
    };
    let mut subject = Subject {
        tenant: tag.tenant,
        lease: tag.lease,
        remote,
        remote_port,
        port: tag.port,
        proto: tag.proto,
    };
    let bytes = u64::from(ctx.skb.len());
    let reason = if tag.proto == TCP {
        stream(&tag, &headers, &packet, way, bytes)
    } else {
        datagram(&mut subject, way, bytes)
    };
    if reason != 0 {
        refuse(reason, &subject);
        return false;
    }
    true
}

/// A segment of a user connection: the reason to drop it, or 0.
#[inline(always)]
fn stream(tag: &SockTag, headers: &Headers, packet: &Skb, way: Way, bytes: u64) -> u32 {
    // What ends the connection passes, so that both ends learn of it.
    let ends = headers.flags & RST != 0;
    if tag.flags & SURPLUS != 0 {
        // Received data is dropped by the stream verdict, after the stack has acknowledged it.
        let silent = ends || way == Way::In || is_empty(headers, packet, bytes);
        return if silent { 0 } else { Reason::Surplus.number() };
    }
    // SAFETY: the value is read while the program runs.
    let reason = match unsafe { TENANTS.get(&tag.tenant) } {
        Some(tenant) => cut(tenant, now()),
        // The daemon forgets a tenant only after its connections.
        None => Reason::InviteUnknown.number(),
    };
    if reason != 0 {
        return if ends { 0 } else { reason };
    }
    count(tag.tenant, tag.port, TCP, way, bytes);
    0
}

/// Whether a segment carries no stream byte, SYN or FIN.
#[inline(always)]
fn is_empty(headers: &Headers, packet: &Skb, bytes: u64) -> bool {
    let Some([offset]) = packet.read(headers.transport + 12) else {
        return false;
    };
    let header = (offset >> 4) as u64 * 4;
    headers.flags & (SYN | FIN) == 0 && bytes <= headers.transport as u64 + header
}

/// A datagram of a leased port: the reason to drop it, or 0.
#[inline(always)]
fn datagram(subject: &mut Subject, way: Way, bytes: u64) -> u32 {
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
    subject.tenant = lease.tenant;
    subject.lease = lease.lease;
    // SAFETY: as above.
    let Some(tenant) = (unsafe { TENANTS.get(&lease.tenant) }) else {
        return Reason::InviteUnknown.number();
    };
    let at = now();
    let reason = cut(tenant, at);
    if reason != 0 {
        return reason;
    }
    let flow = FlowKey {
        remote: subject.remote,
        remote_port: subject.remote_port,
        port: subject.port,
        pad: 0,
    };
    let reason = track(&flow, lease, tenant, way, bytes, at);
    if reason == 0 {
        count(lease.tenant, subject.port, UDP, way, bytes);
    }
    reason
}

#[inline(always)]
fn track(flow: &FlowKey, lease: &Lease, tenant: &Tenant, way: Way, bytes: u64, at: u64) -> u32 {
    match way {
        Way::In => {
            flows::received(flow, lease, bytes, at);
            0
        }
        Way::Out => flows::sent(flow, lease, tenant, bytes, at),
    }
}

/// Adds to the traffic of a lease.
#[inline(always)]
fn count(tenant: u32, port: u16, proto: u8, way: Way, bytes: u64) {
    let key = TrafficKey {
        tenant,
        port,
        proto,
        pad: 0,
    };
    let Some(traffic) = TRAFFIC.get_ptr_mut(&key) else {
        return;
    };
    // SAFETY: this CPU's own value.
    let traffic: &mut Traffic = unsafe { &mut *traffic };
    match way {
        Way::In => {
            traffic.bytes_in += bytes;
            traffic.packets_in += 1;
        }
        Way::Out => {
            traffic.bytes_out += bytes;
            traffic.packets_out += 1;
        }
    }
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
