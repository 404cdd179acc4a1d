//! sock_ops: TCP connections from ESTABLISHED to CLOSE, counted exactly by the stack's own word.

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_SK_STORAGE_GET_F_CREATE, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE, bpf_sock_ops,
};
use aya_ebpf::helpers::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_setsockopt, bpf_sk_storage_get,
    bpf_skc_to_mptcp_sock, bpf_sock_hash_update,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use totoro_api::Reason;
use totoro_ebpf::abi::{
    Addr, Config, Conn, Control, ControlKey, EVENT_SURPLUS, SITE_SOURCES, SOURCE_CONNS,
    SOURCE_SITES, SURPLUS, SockTag, TCP, v4_mapped,
};

use super::charge::{
    BPF_NOEXIST, EEXIST, admit, charge_site, charge_source, discharge, undo_source,
};
use super::ending::closed;
use super::{config, is_control, is_guarded};
use crate::atomic;
use crate::maps::{CONNS, CONTROL, SOCKETS, SURPLUS as SURPLUS_SOCKETS, USAGE};
use crate::verdict::{Subject, Told, now, refuse, report};

const AF_INET6: u32 = 10;
const SOL_TCP: i32 = 6;
const TCP_USER_TIMEOUT: i32 = 18;

/// Whether this kernel has MPTCP; set at load. Without it the helper below has no type to return,
/// and the verifier would refuse the program.
#[unsafe(no_mangle)]
static HAS_MPTCP: Global<u32> = Global::new(0);

/// Entry point. The return value means nothing for these operations.
#[sock_ops]
pub(crate) fn totoro_conns(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established(ctx.ops),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(ctx.ops),
        _ => None,
    };
    1
}

/// The ends of a connection.
#[derive(Clone, Copy, Default)]
pub(super) struct Ends {
    pub(super) remote: Addr,
    pub(super) local: Addr,
    pub(super) remote_port: u16,
    pub(super) port: u16,
    pub(super) ifindex: u32,
}

/// Four words of an address in a context, as bytes.
///
/// # Safety
/// `at` points to an address field of a BPF context.
#[inline(always)]
pub(crate) unsafe fn words(at: *const [u32; 4]) -> Addr {
    let at = at.cast::<u32>();
    // SAFETY: the caller's; volatile keeps the reads at the 32 bits that the verifier allows, and
    // words of network-order bytes are those bytes.
    unsafe {
        core::mem::transmute::<[u32; 4], Addr>([
            core::ptr::read_volatile(at),
            core::ptr::read_volatile(at.add(1)),
            core::ptr::read_volatile(at.add(2)),
            core::ptr::read_volatile(at.add(3)),
        ])
    }
}

/// The address of a context that has both forms of it.
///
/// Both are read whatever the family is: reads in two branches would be merged by LLVM into one at
/// a computed offset, which the verifier refuses.
#[inline(always)]
pub(crate) fn either(is_v6: bool, v6: Addr, v4: u32) -> Addr {
    if is_v6 {
        v6
    } else {
        v4_mapped(v4.to_ne_bytes())
    }
}

/// Reads the ends of the context's connection. A call of its own, as others here: one frame of
/// all of it would pass the 512 bytes of stack.
///
/// # Safety
/// `ops` is the program's context.
#[inline(never)]
pub(super) unsafe fn ends(ops: *mut bpf_sock_ops, ends: &mut Ends) {
    // SAFETY: fields of the context, each read once and at its own width.
    unsafe {
        let remote_port = core::ptr::read_volatile(&raw const (*ops).remote_port);
        let port = core::ptr::read_volatile(&raw const (*ops).local_port) as u16;
        let is_v6 = core::ptr::read_volatile(&raw const (*ops).family) == AF_INET6;
        let remote4 = core::ptr::read_volatile(&raw const (*ops).remote_ip4);
        let local4 = core::ptr::read_volatile(&raw const (*ops).local_ip4);
        let remote6 = words(&raw const (*ops).remote_ip6);
        let local6 = words(&raw const (*ops).local_ip6);
        let sk = (*ops).__bindgen_anon_2.sk;
        let ifindex = if sk.is_null() {
            0
        } else {
            core::ptr::read_volatile(&raw const (*sk).bound_dev_if)
        };
        *ends = Ends {
            remote: either(is_v6, remote6, remote4),
            local: either(is_v6, local6, local4),
            // In network order in the word's high half on little-endian machines.
            remote_port: u32::from_be(remote_port) as u16,
            port,
            ifindex,
        };
    }
}

/// A connection to a listener was established.
#[inline(never)]
fn established(ops: *mut bpf_sock_ops) -> Option<()> {
    // SAFETY: a field of the context, read once and in full.
    let port = unsafe { core::ptr::read_volatile(&raw const (*ops).local_port) } as u16;
    if !is_guarded(TCP, port) {
        return None;
    }
    let config = config()?;
    // SAFETY: the helper reads the context it is given.
    if unsafe { bpf_get_netns_cookie(ops.cast()) } != config.netns_cookie {
        return None;
    }
    let mut both = Ends::default();
    // SAFETY: the context.
    let cookie = unsafe {
        ends(ops, &mut both);
        bpf_get_socket_cookie(ops.cast())
    };
    let at = now();
    // From here on the socket's end must be heard of.
    // SAFETY: a field of the context, read once and in full; the helper changes flags of the context's socket.
    // Those that another owner's program wants stay.
    unsafe {
        let flags = core::ptr::read_volatile(&raw const (*ops).bpf_sock_ops_cb_flags);
        let flags = flags | BPF_SOCK_OPS_STATE_CB_FLAG;
        aya_ebpf::helpers::bpf_sock_ops_cb_flags_set(ops, flags as i32);
    }
    if is_control(config, TCP, port) {
        return control(config, ops, &both, cookie, at);
    }
    let mut tag = SockTag {
        opened_ns: at,
        port,
        proto: TCP,
        ..SockTag::default()
    };
    let mut reason = admit(config, &mut tag, &both, at);
    if reason == 0 {
        if is_mptcp(ops) {
            reason = Reason::Unsupported.number();
        } else if !remember(&tag, &both, cookie, 0) {
            reason = Reason::NodeFull.number();
        }
        if reason != 0 {
            discharge(&tag, &both.remote, at);
        }
    }
    if reason != 0 {
        return surplus(ops, &mut tag, &both, cookie, reason);
    }
    if !set_tag(ops, &mut tag) {
        let _ = CONNS.remove(&cookie);
        discharge(&tag, &both.remote, at);
        return surplus(ops, &mut tag, &both, cookie, Reason::NodeFull.number());
    }
    set_user_timeout(ops, config.user_timeout_ms);
    Some(())
}

/// Whether the context's socket is a subflow of an MPTCP connection: destroying one leaves the
/// connection alive, so none is admitted.
#[inline(always)]
fn is_mptcp(ops: *mut bpf_sock_ops) -> bool {
    if HAS_MPTCP.load() == 0 {
        return false;
    }
    // SAFETY: the context's socket, null-checked; the helper answers null for any other.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        !sk.is_null() && !bpf_skc_to_mptcp_sock(sk.cast()).is_null()
    }
}

/// Tells the daemon of a connection that it must act upon.
#[inline(never)]
pub(super) fn tell(kind: u32, tag: &SockTag, ends: &Ends, cookie: u64, reason: u32) {
    report(Told::Now, |event| {
        event.at_ns = tag.opened_ns;
        event.cookie = cookie;
        event.lease = tag.lease;
        event.remote = ends.remote;
        event.local = ends.local;
        event.remote_port = ends.remote_port;
        event.port = ends.port;
        event.kind = kind;
        event.reason = reason;
        event.tenant = tag.tenant;
        event.proto = TCP;
        event.ifindex = ends.ifindex;
    });
}

/// Enters a connection into `CONNS`; false when the table is full.
#[inline(never)]
fn remember(tag: &SockTag, ends: &Ends, cookie: u64, reason: u32) -> bool {
    let conn = Conn {
        remote: ends.remote,
        local: ends.local,
        remote_port: ends.remote_port,
        local_port: ends.port,
        tenant: tag.tenant,
        lease: tag.lease,
        opened_ns: tag.opened_ns,
        parent: tag.parent,
        flags: tag.flags,
        reason,
        ifindex: ends.ifindex,
    };
    CONNS.insert(&cookie, &conn, 0).is_ok()
}

/// Tags the context's socket; false when it has none or memory is short.
#[inline(never)]
fn set_tag(ops: *mut bpf_sock_ops, tag: &mut SockTag) -> bool {
    // SAFETY: the context's socket, null-checked; map and an initialised value of its type.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        !bpf_sk_storage_get(
            (&raw const SOCKETS).cast_mut().cast(),
            sk.cast(),
            core::ptr::from_mut(tag).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .is_null()
    }
}

/// One too many: no byte of it passes either way, and the daemon destroys it.
#[inline(never)]
fn surplus(
    ops: *mut bpf_sock_ops,
    tag: &mut SockTag,
    ends: &Ends,
    cookie: u64,
    reason: u32,
) -> Option<()> {
    tag.flags = SURPLUS;
    tag.parent = 0;
    let mut key = cookie;
    // SAFETY: context, map and key of the map's type.
    unsafe {
        bpf_sock_hash_update(
            ops,
            (&raw const SURPLUS_SOCKETS).cast_mut().cast(),
            (&raw mut key).cast(),
            0,
        )
    };
    set_tag(ops, tag);
    remember(tag, ends, cookie, reason);
    if let Some(usage) = USAGE.get_ptr_mut(&tag.tenant) {
        // SAFETY: an aligned u64 of a live map value.
        unsafe { atomic::add(&raw mut (*usage).surplus, 1) };
    }
    refuse(
        reason,
        &Subject {
            tenant: tag.tenant,
            lease: tag.lease,
            remote: ends.remote,
            remote_port: ends.remote_port,
            port: ends.port,
            proto: TCP,
        },
    );
    tell(EVENT_SURPLUS, tag, ends, cookie, reason);
    Some(())
}

/// A connection to frps's own port: known by frpc's address, so that a Login can be tied to it.
#[inline(never)]
fn control(
    config: &Config,
    ops: *mut bpf_sock_ops,
    ends: &Ends,
    cookie: u64,
    at: u64,
) -> Option<()> {
    let cap = if config.control_per_source == 0 {
        u32::MAX
    } else {
        config.control_per_source
    };
    let mut reason = if is_mptcp(ops) {
        Reason::Unsupported.number()
    } else {
        charge_source(&ends.remote, 0, SOURCE_CONNS, cap, at)
    };
    if reason == 0 {
        // Here too, not at the SYN alone: who holds back the end of many handshakes has no connection until all end.
        reason = charge_site(&ends.remote, of_site(cap), at);
        if reason == 0 {
            reason = remember_control(ends, cookie, at);
            if reason == 0 {
                return Some(());
            }
            undo_source(&ends.remote, 0, SOURCE_SITES, at);
        }
        undo_source(&ends.remote, 0, SOURCE_CONNS, at);
    }
    let mut tag = SockTag {
        opened_ns: at,
        port: ends.port,
        proto: TCP,
        ..SockTag::default()
    };
    surplus(ops, &mut tag, ends, cookie, reason)
}

/// What a site may have, where each source of it may have `cap` connections to frps's own port.
#[inline(always)]
pub(super) fn of_site(cap: u32) -> u32 {
    if cap > u32::MAX / SITE_SOURCES {
        u32::MAX
    } else {
        cap * SITE_SOURCES
    }
}

/// Enters a connection into `CONTROL`: the reason's number when it can't be, or 0. One whose other
/// end is there already (frpc reached two addresses of the node from one port) is refused: frps
/// tells logins apart by that end alone, and would have the first one's.
#[inline(never)]
fn remember_control(ends: &Ends, cookie: u64, at: u64) -> u32 {
    let key = ControlKey {
        remote: ends.remote,
        remote_port: ends.remote_port,
        pad: [0; 3],
    };
    let value = Control {
        cookie,
        local: ends.local,
        local_port: ends.port,
        looks: 0,
        ifindex: ends.ifindex,
        opened_ns: at,
    };
    match CONTROL.insert(&key, &value, BPF_NOEXIST) {
        Ok(()) => 0,
        Err(EEXIST) => Reason::Conflict.number(),
        Err(_) => Reason::NodeFull.number(),
    }
}

#[inline(never)]
fn set_user_timeout(ops: *mut bpf_sock_ops, ms: u32) {
    if ms == 0 {
        return;
    }
    let mut ms = ms;
    // SAFETY: the context's socket; an int option with a value of 4 bytes.
    unsafe {
        bpf_setsockopt(
            ops.cast(),
            SOL_TCP,
            TCP_USER_TIMEOUT,
            (&raw mut ms).cast(),
            4,
        );
    }
}
