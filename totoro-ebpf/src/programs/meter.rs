//! cgroup_skb: bytes of tagged sockets, the cut of what was revoked or expired. At the socket, so on
//! every interface, reassembled, and nobody else's.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::{bpf_sk_fullsock, bpf_sk_storage_get};
use aya_ebpf::macros::{cgroup_skb, stream_verdict};
use aya_ebpf::programs::SkBuffContext;
use totoro_api::Reason;
use totoro_ebpf::abi::{PortKey, SURPLUS, SockTag, TCP, TrafficKey};
use totoro_ebpf::logic::admit::{cut, lapsed};
use totoro_ebpf::packet::{FIN, Headers, Packet, RST, SYN};

use super::datagram::datagram;
use super::tc::Skb;
use crate::atomic;
use crate::maps::{PORTS, SOCKETS, TENANTS, TRAFFIC};
use crate::verdict::{Subject, lately, refuse};

const ALLOW: i32 = 1;
const DENY: i32 = 0;
const SK_DROP: u32 = 0;

/// Seen from the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
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

/// The tag of a socket, if it is one of ours.
///
/// # Safety
/// `sk` is a socket that the verifier knows, or null; what is answered is used while the program runs.
#[inline(always)]
pub(super) unsafe fn tag(sk: *mut bpf_sock) -> Option<&'static SockTag> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the map and a checked socket. A tag is made whole and never changed, only taken away, and then
    // freed (RCU) after the programs that may have it.
    unsafe {
        let tag = bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::null_mut(),
            0,
        )
        .cast::<SockTag>();
        tag.as_ref()
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
    let bytes = u64::from(ctx.skb.len());
    let surplus = tag.flags & SURPLUS != 0;
    // Of an admitted connection nothing is read: it stands or falls with its tenant and lease.
    let mut reason = 0;
    if tag.proto == TCP && !surplus {
        reason = standing(tag, lately());
        if reason == 0 {
            count(tag.tenant, tag.port, TCP, way, bytes);
            return true;
        }
    }
    let packet = Skb(skb);
    let mut subject = Subject {
        tenant: tag.tenant,
        lease: tag.lease,
        remote: [0; 16],
        remote_port: 0,
        port: tag.port,
        proto: tag.proto,
    };
    let headers = Headers::from_ip(&packet);
    if let Some(headers) = &headers
        && let Some((source, destination)) = headers.addresses(&packet)
    {
        (subject.remote, subject.remote_port) = match way {
            Way::In => (source, headers.source_port),
            Way::Out => (destination, headers.destination_port),
        };
    }
    let reason = match (tag.proto, headers) {
        (TCP, Some(headers)) if surplus => match is_silent(&headers, &packet, way, bytes) {
            true => 0,
            false => Reason::Surplus.number(),
        },
        // What ends the connection passes, so that both ends learn of it.
        (TCP, Some(headers)) if headers.flags & RST != 0 => 0,
        // The stack followed more headers than we do. It is cut all the same.
        (TCP, None) if surplus => Reason::Surplus.number(),
        (TCP, _) => reason,
        (_, Some(_)) => {
            // SAFETY: a field of the context, read once and in full.
            let ingress = unsafe { core::ptr::read_volatile(&raw const (*skb).ingress_ifindex) };
            datagram(&mut subject, ingress, way, bytes)
        }
        // Whose flow it is can't be told.
        (_, None) => Reason::Unsupported.number(),
    };
    if reason != 0 {
        refuse(reason, &subject);
        return false;
    }
    true
}

/// Whether a connection's tenant is cut, or its lease is over: the reason's number, or 0.
#[inline(always)]
fn standing(tag: &SockTag, at: u64) -> u32 {
    // SAFETY: the value is read while the program runs.
    let reason = match unsafe { TENANTS.get(&tag.tenant) } {
        Some(tenant) => cut(tenant, at),
        // The daemon forgets a tenant only after its connections.
        None => Reason::InviteUnknown.number(),
    };
    if reason != 0 {
        return reason;
    }
    let key = PortKey {
        port: tag.port,
        proto: TCP,
        pad: 0,
    };
    // SAFETY: as above.
    match unsafe { PORTS.get(&key) } {
        Some(lease) => lapsed(lease, tag.lease, at),
        None => Reason::NoLease.number(),
    }
}

/// Whether a surplus connection's segment may pass, because it says nothing: it acknowledges or
/// resets, or (inwards) ends an empty stream. Data in the handshake's last ACK is there before the
/// socket is tagged; that is dropped by the stream verdict.
#[inline(always)]
fn is_silent(headers: &Headers, packet: &Skb, way: Way, bytes: u64) -> bool {
    if headers.flags & RST != 0 {
        return true;
    }
    let Some([offset]) = packet.read(headers.transport + 12) else {
        return false;
    };
    let header = (offset >> 4) as u64 * 4;
    let speaks = match way {
        Way::In => SYN,
        Way::Out => SYN | FIN,
    };
    headers.flags & speaks == 0 && bytes <= headers.transport as u64 + header
}

/// Adds to the traffic of a lease.
#[inline(always)]
pub(super) fn count(tenant: u32, port: u16, proto: u8, way: Way, bytes: u64) {
    let key = TrafficKey {
        tenant,
        port,
        proto,
        pad: 0,
    };
    let Some(traffic) = TRAFFIC.get_ptr_mut(&key) else {
        return;
    };
    // SAFETY: aligned fields of this CPU's own value. Atomic all the same: a socket's send may be
    // interrupted by what another receives.
    unsafe {
        match way {
            Way::In => {
                atomic::add(&raw mut (*traffic).bytes_in, bytes);
                atomic::add(&raw mut (*traffic).packets_in, 1);
            }
            Way::Out => {
                atomic::add(&raw mut (*traffic).bytes_out, bytes);
                atomic::add(&raw mut (*traffic).packets_out, 1);
            }
        }
    }
}
