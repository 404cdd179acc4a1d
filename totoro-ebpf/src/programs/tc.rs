//! TC: the shield where XDP is off, and outbound UDP flows from pool-numbered ports.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_store_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::{SkBuffContext, TcContext};
use totoro_ebpf::abi::{OutboundKey, PortKey, UDP};
use totoro_ebpf::packet::{Headers, MAX_OFFSET, Packet, Target};

use super::frame::Frame;
use super::greeting::{Piece, Wire};
use super::{is_guarded, shield};
use crate::maps::{OUTBOUND, PORTS};
use crate::verdict::now;

/// An skb's bytes, wherever they are.
pub(crate) struct Skb(pub(crate) *mut aya_ebpf::bindings::__sk_buff);

impl Packet for Skb {
    #[inline(always)]
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        if at > MAX_OFFSET {
            return None;
        }
        SkBuffContext::new(self.0).load::<[u8; N]>(at).ok()
    }
}

impl Wire for Skb {
    #[inline(always)]
    fn replace(&self, at: usize, new: &Piece, sum: usize, diff: i64) -> Option<()> {
        let (at, sum, size) = (at as u32, sum as u32, size_of::<Piece>() as u32);
        // The sum first: without it the packet is dropped by the stack, and comes again.
        // SAFETY: the program's context, and a piece of that size on the stack.
        unsafe {
            if bpf_l4_csum_replace(self.0, sum, 0, diff as u64, 0) != 0 {
                return None;
            }
            (bpf_skb_store_bytes(self.0, at, new.as_ptr().cast(), size, 0) == 0).then_some(())
        }
    }
}

/// Ingress entry point: lets the next program decide (`UNSPEC`) unless the shield drops.
#[classifier]
pub(crate) fn totoro_tc_in(ctx: TcContext) -> i32 {
    let near = Frame::new(ctx.data(), ctx.data_end());
    if shield::passes_by(&near, &Skb(ctx.skb.skb)) {
        TC_ACT_UNSPEC
    } else {
        TC_ACT_SHOT
    }
}

/// Egress entry point: never drops.
#[classifier]
pub(crate) fn totoro_tc_out(ctx: TcContext) -> i32 {
    // By what can be read without a call, where that suffices.
    let near = Frame::new(ctx.data(), ctx.data_end());
    let target = Target::from_ethernet(&near);
    if target.is_none_or(|target| leaves_pool(target.proto, target.source_port)) {
        record(&Skb(ctx.skb.skb));
    }
    TC_ACT_UNSPEC
}

/// Whether a packet is a datagram from a pool-numbered port.
#[inline(always)]
fn leaves_pool(proto: u8, source_port: u16) -> bool {
    proto == UDP && is_guarded(UDP, source_port)
}

/// Remembers a UDP flow that leaves from a pool-numbered port without being a lease's.
#[inline(always)]
fn record(packet: &Skb) -> Option<()> {
    let headers = Headers::from_ethernet(packet)?;
    if !leaves_pool(headers.proto, headers.source_port) {
        return None;
    }
    let port = PortKey {
        port: headers.source_port,
        proto: UDP,
        pad: 0,
    };
    // SAFETY: a lookup whose value is not used.
    if unsafe { PORTS.get(&port) }.is_some() {
        return None;
    }
    let (local, remote) = headers.addresses(packet)?;
    let key = OutboundKey {
        remote,
        local,
        remote_port: headers.destination_port,
        local_port: headers.source_port,
        pad: 0,
    };
    OUTBOUND.insert(&key, now(), 0).ok()
}
