//! post_bind: tags UDP sockets that listen on a pool port, so that the meter knows them. One that can't be tagged
//! does not get the port: nothing of it would be counted or refused.

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use totoro_ebpf::abi::{PortKey, SockTag, UDP};

use super::{config, is_guarded};
use crate::maps::{PORTS, SOCKETS};

const ALLOW: i32 = 1;
const DENY: i32 = 0;

/// Entry point for IPv4 sockets.
#[cgroup_sock(post_bind4)]
pub(crate) fn totoro_bind4(ctx: SockContext) -> i32 {
    verdict(&ctx)
}

/// Entry point for IPv6 (and dual-stack) sockets.
#[cgroup_sock(post_bind6)]
pub(crate) fn totoro_bind6(ctx: SockContext) -> i32 {
    verdict(&ctx)
}

#[inline(always)]
fn verdict(ctx: &SockContext) -> i32 {
    match tag(ctx) {
        Some(false) => DENY,
        _ => ALLOW,
    }
}

/// Whether a socket was tagged; `None` where it needs no tag.
#[inline(always)]
fn tag(ctx: &SockContext) -> Option<bool> {
    // SAFETY: fields of the context, each read once and in full.
    let (proto, port) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*ctx.sock).protocol) as u8,
            core::ptr::read_volatile(&raw const (*ctx.sock).src_port) as u16,
        )
    };
    if proto != UDP || !is_guarded(UDP, port) {
        return None;
    }
    // SAFETY: the helper reads the context it is given.
    if unsafe { bpf_get_netns_cookie(ctx.sock.cast()) } != config()?.netns_cookie {
        return None;
    }
    let key = PortKey {
        port,
        proto,
        pad: 0,
    };
    // SAFETY: the value is read once.
    let (tenant, lease) =
        unsafe { PORTS.get(&key) }.map_or((0, 0), |lease| (lease.tenant, lease.lease));
    let mut value = SockTag {
        tenant,
        lease,
        port,
        proto,
        ..SockTag::default()
    };
    // SAFETY: map, context socket and an initialised value of the map's type.
    let tagged = unsafe {
        bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            ctx.sock.cast(),
            (&raw mut value).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    Some(!tagged.is_null())
}
