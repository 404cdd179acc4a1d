//! What a connection is charged with: its tenant, the tenant's parent, the node, its source, the
//! rate. All of it or nothing.

use totoro_api::Reason;
use totoro_ebpf::abi::{
    Addr, CANARY, Config, NODE, PortKey, SOURCE_CONNS, SOURCE_SITES, SockTag, Source, SourceKey,
    TCP,
};
use totoro_ebpf::logic::admit::{FORGOTTEN, is_source_idle, open};
use totoro_ebpf::logic::{bucket, prefix};

use super::conns::Ends;
use crate::atomic;
use crate::maps::{PORT_USAGE, PORTS, SOURCES, TENANTS, USAGE};

pub(super) const BPF_NOEXIST: u64 = 1;
/// What an insert with `BPF_NOEXIST` says of a key that is there.
pub(super) const EEXIST: i32 = -17;

/// Judges again and charges: the reason why the connection is one too many, or 0. Nothing stays
/// charged when it is.
#[inline(never)]
pub(super) fn admit(config: &Config, tag: &mut SockTag, ends: &Ends, at: u64) -> u32 {
    let key = PortKey {
        port: ends.port,
        proto: TCP,
        pad: 0,
    };
    // SAFETY: values are read while the program runs.
    let Some(lease) = (unsafe { PORTS.get(&key) }) else {
        return Reason::NoLease.number();
    };
    // Copied at once: a lease that the daemon writes anew may be another port's a few lines below.
    (tag.tenant, tag.lease) = (lease.tenant, lease.lease);
    let number = tag.tenant;
    // SAFETY: as above.
    let Some(tenant) = (unsafe { TENANTS.get(&number) }) else {
        return Reason::NoLease.number();
    };
    let reason = open(config.hold, lease, tenant, at);
    if reason != 0 {
        return reason;
    }
    let Some(usage) = USAGE.get_ptr_mut(&number) else {
        return Reason::NoLease.number();
    };
    // SAFETY: aligned fields of a live map value.
    let (conns, tat) = unsafe { (&raw mut (*usage).conns, &raw mut (*usage).conn_tat_ns) };
    // SAFETY: as above. Compare-and-swap, so that the count never passes the limit, not even for
    // the moment in which another CPU looks.
    if !unsafe { atomic::update(conns, |n| (n < tenant.max_conns as u64).then_some(n + 1)) } {
        return Reason::MaxConns.number();
    }
    let parent = tenant.parent;
    if parent != 0 {
        if !charge_parent(parent) {
            // SAFETY: charged just above.
            unsafe { atomic::sub(conns, 1) };
            return Reason::PublicFull.number();
        }
        tag.parent = parent;
    }
    // The daemon's own connections try whether limits hold, of a node that is full too.
    let total = if number == CANARY {
        0
    } else {
        config.max_conns_total
    };
    if !charge_node(total) {
        // SAFETY: charged just above.
        unsafe { atomic::sub(conns, 1) };
        discharge_parent(tag.parent);
        return Reason::NodeFull.number();
    }
    let per_source = tenant.max_conns_per_source;
    let reason = charge_source(&ends.remote, number, SOURCE_CONNS, per_source, at);
    if reason != 0 {
        // SAFETY: charged just above.
        unsafe { atomic::sub(conns, 1) };
        discharge_parent(tag.parent);
        discharge_node();
        return reason;
    }
    let (interval, burst) = (tenant.conn_interval_ns, tenant.conn_burst_ns);
    // SAFETY: as above.
    if interval != 0
        && !unsafe { atomic::update(tat, |tat| bucket::take(tat, at, interval, burst)) }
    {
        // SAFETY: charged just above.
        unsafe { atomic::sub(conns, 1) };
        discharge_parent(tag.parent);
        discharge_node();
        undo_source(&ends.remote, number, SOURCE_CONNS, at);
        return Reason::ConnRate.number();
    }
    // SAFETY: as above.
    unsafe {
        atomic::add(&raw mut (*usage).admitted, 1);
        (*usage).last_ns = at;
    }
    if let Some(usage) = PORT_USAGE.get_ptr_mut(&key) {
        // SAFETY: as above.
        unsafe {
            atomic::add(&raw mut (*usage).conns, 1);
            atomic::add(&raw mut (*usage).admitted, 1);
        }
    }
    0
}

/// Takes back what `admit` charged for a connection.
#[inline(never)]
pub(super) fn discharge(tag: &SockTag, remote: &Addr, at: u64) {
    if let Some(usage) = USAGE.get_ptr_mut(&tag.tenant) {
        // SAFETY: an aligned u64 of a live map value, charged when the socket was tagged.
        unsafe {
            atomic::take_back(&raw mut (*usage).conns);
            (*usage).last_ns = at;
        }
    }
    discharge_parent(tag.parent);
    discharge_node();
    discharge_source(remote, tag.tenant, SOURCE_CONNS, at);
    let key = PortKey {
        port: tag.port,
        proto: TCP,
        pad: 0,
    };
    // The port may have another lease by now, whose count this connection is not in.
    // SAFETY: the value is read once.
    let same = unsafe { PORTS.get(&key) }.is_some_and(|lease| lease.lease == tag.lease);
    if same && let Some(usage) = PORT_USAGE.get_ptr_mut(&key) {
        // SAFETY: as above.
        unsafe { atomic::take_back(&raw mut (*usage).conns) };
    }
}

#[inline(always)]
fn charge_parent(parent: u32) -> bool {
    // SAFETY: the value is read once.
    let Some(max) = (unsafe { TENANTS.get(&parent) }).map(|tenant| tenant.max_conns) else {
        return false;
    };
    let Some(usage) = USAGE.get_ptr_mut(&parent) else {
        return false;
    };
    // SAFETY: an aligned u64 of a live map value.
    unsafe {
        atomic::update(&raw mut (*usage).conns, |n| {
            (n < max as u64).then_some(n + 1)
        })
    }
}

#[inline(always)]
fn discharge_parent(parent: u32) {
    if parent == 0 {
        return;
    }
    if let Some(usage) = USAGE.get_ptr_mut(&parent) {
        // SAFETY: an aligned u64 of a live map value, charged before.
        unsafe { atomic::take_back(&raw mut (*usage).conns) };
    }
}

/// Counts a connection on the node, which has `max` of them (0 = no limit); whether there was room.
#[inline(always)]
fn charge_node(max: u32) -> bool {
    let max = if max == 0 { u64::MAX } else { max as u64 };
    // On the stack: a reference to a constant is one into a section that is not loaded as it is.
    let node = NODE;
    let Some(usage) = USAGE.get_ptr_mut(&node) else {
        return false;
    };
    // SAFETY: an aligned u64 of a live map value. Added and taken back, without a loop of tries: the
    // verifier of Linux 6.1 follows each of them. What stands too high for a moment refuses somebody
    // at worst.
    unsafe {
        let conns = &raw mut (*usage).conns;
        let room = atomic::add(conns, 1) < max;
        if !room {
            atomic::sub(conns, 1);
        }
        room
    }
}

#[inline(always)]
fn discharge_node() {
    let node = NODE;
    if let Some(usage) = USAGE.get_ptr_mut(&node) {
        // SAFETY: an aligned u64 of a live map value, charged before.
        unsafe { atomic::take_back(&raw mut (*usage).conns) };
    }
}

/// The key of a source (of a site, by `kind`). Copied first and narrowed then: bytes that are picked from a pointer of
/// unknown alignment would take the stack that the meter does not have.
#[inline(always)]
fn source_key(remote: &Addr, tenant: u32, kind: u32) -> SourceKey {
    let mut key = SourceKey {
        prefix: *remote,
        tenant,
        kind,
    };
    if !prefix::is_v4(&key.prefix) {
        let [a, b, c, d, e, f, mut g, mut h, ..] = key.prefix;
        if kind == SOURCE_SITES {
            (g, h) = (0, 0);
        }
        key.prefix = [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0];
    }
    key
}

/// Counts a connection (or flow, by `kind`) on its source (tenant 0: frps's own port): the reason's
/// number when it is one too many, or 0.
#[inline(never)]
pub(super) fn charge_source(remote: &Addr, tenant: u32, kind: u32, max: u32, at: u64) -> u32 {
    let over = if tenant == 0 {
        Reason::RateLimited.number()
    } else {
        Reason::MaxConnsPerSource.number()
    };
    if max == 0 {
        return over;
    }
    let key = source_key(remote, tenant, kind);
    let fresh = Source {
        conns: 1,
        last_ns: at,
    };
    // Again when the entry was just being forgotten.
    for _ in 0..2 {
        match SOURCES.insert(&key, &fresh, BPF_NOEXIST) {
            Ok(()) => return 0,
            Err(EEXIST) => {}
            // A full table refuses: an uncounted source could take everything.
            Err(_) => return Reason::NodeFull.number(),
        }
        let Some(source) = SOURCES.get_ptr_mut(&key) else {
            continue;
        };
        // SAFETY: aligned fields of a live map value. Added and taken back, without a loop of tries:
        // those cost the stack of the meter, which calls this. What stands too high for a moment
        // refuses somebody at worst.
        unsafe {
            let conns = &raw mut (*source).conns;
            let before = atomic::add(conns, 1);
            if before < max as u64 {
                (*source).last_ns = at;
                return 0;
            }
            atomic::sub(conns, 1);
            if before < FORGOTTEN {
                return over;
            }
        }
    }
    Reason::NodeFull.number()
}

/// Counts a connection to frps's own port on its site: the reason's number when it is one too many, or 0. Without a
/// second try, which the verifier would follow through all that comes after: where the entry is just being forgotten,
/// frpc comes again.
#[inline(never)]
pub(super) fn charge_site(remote: &Addr, max: u32, at: u64) -> u32 {
    let key = source_key(remote, 0, SOURCE_SITES);
    let fresh = Source {
        conns: 0,
        last_ns: at,
    };
    let _ = SOURCES.insert(&key, &fresh, BPF_NOEXIST);
    let Some(source) = SOURCES.get_ptr_mut(&key) else {
        return Reason::NodeFull.number();
    };
    // SAFETY: aligned fields of a live map value.
    unsafe {
        let conns = &raw mut (*source).conns;
        if atomic::add(conns, 1) < max as u64 {
            (*source).last_ns = at;
            return 0;
        }
        atomic::sub(conns, 1);
    }
    Reason::RateLimited.number()
}

/// Removes a source that has no connection. Marked before it goes, so that no connection is counted on
/// an entry that is on its way out; one whose removal failed before is marked already.
#[inline(always)]
pub(super) fn forget_source(key: &SourceKey, at: u64) {
    let Some(source) = SOURCES.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: aligned fields of a live map value. The time first: who sees a mark with an old one
    // takes the removal for failed.
    let marked = unsafe {
        let conns = &raw mut (*source).conns;
        let stuck = is_source_idle(atomic::load(conns), (*source).last_ns, at);
        (*source).last_ns = at;
        atomic::update(conns, |n| (n == 0).then_some(FORGOTTEN))
            || stuck && atomic::load(conns) >= FORGOTTEN
    };
    if marked {
        let _ = SOURCES.remove(key);
    }
}

/// Takes one back from a source.
#[inline(never)]
pub(super) fn discharge_source(remote: &Addr, tenant: u32, kind: u32, at: u64) {
    let key = source_key(remote, tenant, kind);
    discharge_key(&key, at);
}

/// Removes a source's entry if nothing is counted on it.
#[inline(never)]
pub(super) fn forget_source_of(remote: &Addr, tenant: u32, kind: u32, at: u64) {
    let key = source_key(remote, tenant, kind);
    forget_source(&key, at);
}

/// Takes back from a source what came to nothing, and the entry if it has nothing else: who is
/// refused must not fill the table.
#[inline(never)]
pub(super) fn undo_source(remote: &Addr, tenant: u32, kind: u32, at: u64) {
    let key = source_key(remote, tenant, kind);
    discharge_key(&key, at);
    forget_source(&key, at);
}

#[inline(always)]
fn discharge_key(key: &SourceKey, at: u64) {
    if let Some(source) = SOURCES.get_ptr_mut(key) {
        // SAFETY: aligned fields of a live map value.
        unsafe {
            atomic::take_back(&raw mut (*source).conns);
            (*source).last_ns = at;
        }
    }
}
