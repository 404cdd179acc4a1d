//! The end of a connection: heard from the stack, or mended when it was not.

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use totoro_ebpf::abi::{
    Addr, Conn, ControlKey, EVENT_CLOSED, EVENT_CONTROL_CLOSED, SOURCE_CONNS, SOURCE_SITES,
    SURPLUS, SockTag, TCP,
};

use super::charge::{discharge, discharge_source};
use super::conns::{Ends, ends, tell};
use super::{config, is_control};
use crate::maps::{CONNS, CONTROL};
use crate::verdict::{Told, now, report};

/// A connection ended.
#[inline(never)]
pub(super) fn closed(ops: *mut bpf_sock_ops) -> Option<()> {
    let mut both = Ends::default();
    // SAFETY: the context.
    let cookie = unsafe {
        ends(ops, &mut both);
        bpf_get_socket_cookie(ops.cast())
    };
    let at = now();
    let config = config()?;
    if is_control(config, TCP, both.port) {
        let key = ControlKey {
            remote: both.remote,
            remote_port: both.remote_port,
            pad: [0; 3],
        };
        if forget_control(&key, cookie, at) {
            let tag = SockTag {
                opened_ns: at,
                ..SockTag::default()
            };
            tell(EVENT_CONTROL_CLOSED, &tag, &both, cookie, 0);
        }
        let _ = CONNS.remove(&cookie);
        return Some(());
    }
    let conn = settle(cookie, at)?;
    // SAFETY: fields of the context, each read once and in full.
    let (received, acked) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*ops).bytes_received),
            core::ptr::read_volatile(&raw const (*ops).bytes_acked),
        )
    };
    report(Told::Later, |event| {
        event.at_ns = at;
        event.cookie = cookie;
        event.lease = conn.lease;
        event.duration_ns = at.saturating_sub(conn.opened_ns);
        event.bytes_in = received;
        event.bytes_out = acked;
        event.remote = both.remote;
        event.local = both.local;
        event.remote_port = both.remote_port;
        event.port = both.port;
        event.kind = EVENT_CLOSED;
        event.tenant = conn.tenant;
        event.proto = TCP;
        event.ifindex = both.ifindex;
    });
    Some(())
}

/// Removes a user connection's entry and takes its charges back. The entry is the receipt: whoever
/// removes it discharges, once. `None` when there was none, or nothing was charged (surplus).
#[inline(always)]
pub(super) fn settle(cookie: u64, at: u64) -> Option<Receipt> {
    // SAFETY: copied at once.
    let conn = unsafe { CONNS.get(&cookie) }.map(Receipt::of)?;
    if CONNS.remove(&cookie).is_err() || conn.flags & SURPLUS != 0 {
        return None;
    }
    let tag = SockTag {
        tenant: conn.tenant,
        lease: conn.lease,
        parent: conn.parent,
        port: conn.port,
        ..SockTag::default()
    };
    discharge(&tag, &conn.remote, at);
    Some(conn)
}

/// Removes the entry of a connection to frps's own port, if it is `cookie`'s; whether it was.
#[inline(always)]
pub(super) fn forget_control(key: &ControlKey, cookie: u64, at: u64) -> bool {
    // SAFETY: the value is read once.
    let same = unsafe { CONTROL.get(key) }.is_some_and(|control| control.cookie == cookie);
    if !same || CONTROL.remove(key).is_err() {
        return false;
    }
    discharge_source(&key.remote, 0, SOURCE_CONNS, at);
    discharge_source(&key.remote, 0, SOURCE_SITES, at);
    true
}

/// What a connection's entry says of its charges.
#[derive(Clone, Copy)]
pub(super) struct Receipt {
    remote: Addr,
    port: u16,
    tenant: u32,
    parent: u32,
    flags: u32,
    lease: u64,
    opened_ns: u64,
}

impl Receipt {
    #[inline(always)]
    fn of(conn: &Conn) -> Self {
        Receipt {
            remote: conn.remote,
            port: conn.local_port,
            tenant: conn.tenant,
            parent: conn.parent,
            flags: conn.flags,
            lease: conn.lease,
            opened_ns: conn.opened_ns,
        }
    }
}
