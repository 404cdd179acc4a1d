//! Opening and closing a lease. Attached nowhere: the daemon runs it. One call of the kernel in place of one
//! for each table takes a fifth less of the node for a proxy (docs/performance.md).

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_loop, bpf_map_lookup_percpu_elem};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use totoro_ebpf::abi::{
    Gate, LEASE_CLOSE, LEASE_DONE, LEASE_FORGET, LEASE_NO_ORDER, LEASE_NO_PORT, LEASE_NO_TRAFFIC,
    LEASE_NO_USAGE, LEASE_OPEN, LEASE_SHIFT, Lease, LeaseOrder, LeasePacket, PortKey, PortUsage,
    Traffic, TrafficKey,
};
use totoro_ebpf::logic::pool;

use crate::maps::{GATES, PORT_USAGE, PORTS, SYN_TATS, TRAFFIC};

/// More CPUs than any kernel knows of (`CONFIG_NR_CPUS` is 8,192 at most): the walk ends at the first that
/// is not there.
const CPUS: u32 = 8_192;
/// Ends a walk through CPUs.
const STOP: i64 = 1;
/// `ENOENT`: what is to be removed is not there.
const ABSENT: i32 = -2;

/// Entry point; see [`LeaseOrder`].
#[xdp]
pub(crate) fn totoro_lease(ctx: XdpContext) -> u32 {
    let start = ctx.data();
    if start + size_of::<LeasePacket>() > ctx.data_end() {
        return LEASE_NO_ORDER << LEASE_SHIFT;
    }
    // SAFETY: the bounds were just compared with the packet's end, as the verifier wants it, and XDP may
    // write to the packet; nobody else has it.
    let order = unsafe { &mut (*(start as *mut LeasePacket)).order };
    let done = match order.kind {
        LEASE_OPEN => open(order.key, order.lease),
        LEASE_CLOSE => close(order),
        LEASE_FORGET => forget(order.key, order.lease.tenant),
        _ => Err(LEASE_NO_ORDER << LEASE_SHIFT),
    };
    match done {
        Ok(()) => LEASE_DONE,
        Err(code) => code,
    }
}

/// What is told of a table that can't be written.
#[inline(always)]
const fn refused(table: u32, error: i32) -> u32 {
    (table << LEASE_SHIFT) | (error.unsigned_abs() & 0xffff)
}

#[inline(always)]
fn open(key: PortKey, lease: Lease) -> Result<(), u32> {
    // SAFETY: the value is read once.
    let before = unsafe { PORTS.get(&key) }.map(|before| before.lease);
    let fresh = before != Some(lease.lease);
    let traffic = TrafficKey::of(lease.tenant, key);
    let written = write(key, &lease, &traffic, fresh);
    if written.is_err() && before.is_none() {
        // What made it into the maps before one was full must not stay.
        let _ = PORT_USAGE.remove(&key);
        let _ = TRAFFIC.remove(&traffic);
    }
    written
}

/// Its counters first, and what the shield has at hand last: until then it asks `PORTS`.
#[inline(always)]
fn write(key: PortKey, lease: &Lease, traffic: &TrafficKey, fresh: bool) -> Result<(), u32> {
    if fresh {
        PORT_USAGE
            .insert(&key, &PortUsage::default(), 0)
            .map_err(|error| refused(LEASE_NO_USAGE, error))?;
    }
    if TRAFFIC.get_ptr(traffic).is_none() {
        // A new entry is zero on the other CPUs too.
        TRAFFIC
            .insert(traffic, &Traffic::default(), 0)
            .map_err(|error| refused(LEASE_NO_TRAFFIC, error))?;
    } else if fresh {
        each_cpu(zero, &mut Walk::of(*traffic));
    }
    PORTS
        .insert(&key, lease, 0)
        .map_err(|error| refused(LEASE_NO_PORT, error))?;
    let place = pool::place(key.proto, key.port);
    if fresh && let Some(tat) = SYN_TATS.get_ptr_mut(place) {
        // SAFETY: an aligned u64 of a live map value.
        unsafe { tat.write_volatile(0) };
    }
    show(place, Gate::of(lease));
    Ok(())
}

#[inline(always)]
fn close(order: &mut LeaseOrder) -> Result<(), u32> {
    let key = order.key;
    // SAFETY: the value is copied at once.
    let lease = unsafe { PORTS.get(&key) }.copied();
    show(pool::place(key.proto, key.port), Gate::default());
    gone(PORTS.remove(&key), LEASE_NO_PORT)?;
    order.lease = lease.unwrap_or_default();
    let mut walk = Walk::of(TrafficKey::of(order.lease.tenant, key));
    each_cpu(add, &mut walk);
    order.traffic = walk.sum;
    // Where nothing is known of them, there may be connections.
    let unknown = PortUsage {
        conns: u64::MAX,
        ..PortUsage::default()
    };
    // SAFETY: the value is copied at once.
    let usage = unsafe { PORT_USAGE.get(&key) }.copied().unwrap_or(unknown);
    order.admitted = usage.admitted;
    order.conns = usage.conns;
    Ok(())
}

#[inline(always)]
fn forget(key: PortKey, tenant: u32) -> Result<(), u32> {
    gone(
        TRAFFIC.remove(TrafficKey::of(tenant, key)),
        LEASE_NO_TRAFFIC,
    )?;
    gone(PORT_USAGE.remove(key), LEASE_NO_USAGE)
}

/// To remove what is not there is no failure.
#[inline(always)]
fn gone(removed: Result<(), i32>, table: u32) -> Result<(), u32> {
    match removed {
        Ok(()) | Err(ABSENT) => Ok(()),
        Err(error) => Err(refused(table, error)),
    }
}

/// What the shield has at hand of a port; whole words, each in one piece.
#[inline(always)]
fn show(place: u32, gate: Gate) {
    if let Some(at) = GATES.get_ptr_mut(place) {
        // SAFETY: a live map value, aligned as its type.
        unsafe { at.write_volatile(gate) };
    }
}

/// A walk through the CPUs' counters of one lease.
struct Walk {
    key: TrafficKey,
    sum: Traffic,
}

impl Walk {
    #[inline(always)]
    const fn of(key: TrafficKey) -> Walk {
        let sum = Traffic {
            bytes_in: 0,
            bytes_out: 0,
            packets_in: 0,
            packets_out: 0,
        };
        Walk { key, sum }
    }

    /// The counters of one CPU.
    #[inline(always)]
    fn at(&self, cpu: u32) -> Option<*mut Traffic> {
        let map = (&raw const TRAFFIC).cast_mut().cast();
        // SAFETY: the map and a key of its kind; the answer is null or a live value.
        let value = unsafe { bpf_map_lookup_percpu_elem(map, (&raw const self.key).cast(), cpu) };
        (!value.is_null()).then_some(value.cast())
    }
}

#[inline(always)]
fn each_cpu(step: extern "C" fn(u32, &mut Walk) -> i64, walk: &mut Walk) {
    // SAFETY: a callback of the helper's kind, with the context that it expects.
    unsafe {
        bpf_loop(
            CPUS,
            step as *mut c_void,
            core::ptr::from_mut(walk).cast(),
            0,
        )
    };
}

/// Counts from zero. The lease that was counted there has ended: nobody adds to it.
extern "C" fn zero(cpu: u32, walk: &mut Walk) -> i64 {
    let Some(traffic) = walk.at(cpu) else {
        return STOP;
    };
    // SAFETY: a live map value, aligned as its type.
    unsafe { traffic.write_volatile(Traffic::default()) };
    0
}

/// Adds up.
extern "C" fn add(cpu: u32, walk: &mut Walk) -> i64 {
    let Some(traffic) = walk.at(cpu) else {
        return STOP;
    };
    // SAFETY: a live map value, aligned as its type; another CPU may add to it meanwhile.
    let traffic = unsafe { traffic.read_volatile() };
    walk.sum.bytes_in += traffic.bytes_in;
    walk.sum.bytes_out += traffic.bytes_out;
    walk.sum.packets_in += traffic.packets_in;
    walk.sum.packets_out += traffic.packets_out;
    0
}
