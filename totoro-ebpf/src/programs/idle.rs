//! What has been silent for too long: UDP flows, and sources that nothing is counted on. The daemon
//! has it looked for each second; when it does not, the next user does, so that flows end and tables
//! have room while the daemon is away.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_for_each_map_elem;
use totoro_ebpf::abi::{Flow, FlowKey, NODE, SPARE_FLOWS, SPARE_SOURCES, Source, SourceKey};
use totoro_ebpf::logic::admit::{self, flow_idle, is_source_idle};

use super::charge::forget_source;
use super::{NEXT, config, flows};
use crate::atomic;
use crate::maps::{CANDIDATES, FLOWS, SOURCES, USAGE};

/// What the callbacks are told, and tell.
struct Look {
    at: u64,
    idle_ns: u64,
    ended: u64,
}

/// Whether nobody has looked for what is idle for long.
#[inline(always)]
pub(super) fn is_overdue(at: u64) -> bool {
    let node = NODE;
    // SAFETY: the value is read once.
    unsafe { USAGE.get(&node) }.is_some_and(|usage| admit::is_overdue(usage.last_ns, at))
}

/// Ends what is idle in all tables but those that are `spared` (`SPARE_…`); how many flows. Two that look at
/// once end nothing twice.
#[inline(never)]
pub(super) fn end(at: u64, spared: u32) -> u32 {
    let Some(config) = config() else { return 0 };
    let node = NODE;
    if let Some(usage) = USAGE.get_ptr_mut(&node) {
        // First, so that other CPUs' users don't wait for the same.
        // SAFETY: an aligned u64 of a live map value.
        unsafe { (&raw mut (*usage).last_ns).write_volatile(at) };
    }
    let mut look = Look {
        at,
        idle_ns: config.flow_idle_ns,
        ended: 0,
    };
    let told = (&raw mut look).cast();
    // SAFETY: maps with callbacks for their keys and values, which use `look` while this runs.
    unsafe {
        if spared & SPARE_FLOWS == 0 {
            let map = (&raw const FLOWS).cast_mut().cast();
            bpf_for_each_map_elem(map, flow as *mut c_void, told, 0);
            let map = (&raw const CANDIDATES).cast_mut().cast();
            bpf_for_each_map_elem(map, candidate as *mut c_void, told, 0);
        }
        if spared & SPARE_SOURCES == 0 {
            let map = (&raw const SOURCES).cast_mut().cast();
            bpf_for_each_map_elem(map, source as *mut c_void, told, 0);
        }
    }
    look.ended as u32
}

/// # Safety
/// Called by the kernel for an entry of `FLOWS`.
unsafe extern "C" fn flow(
    _map: *mut c_void,
    key: *const FlowKey,
    flow: *const Flow,
    look: *mut Look,
) -> i64 {
    // SAFETY: the entry and what `end` told, alive while this runs.
    unsafe {
        if is_idle(flow, look) {
            let key = *key;
            (*look).ended += u64::from(flows::end(&key, (*look).at));
        }
    }
    NEXT
}

/// # Safety
/// Called by the kernel for an entry of `CANDIDATES`.
unsafe extern "C" fn candidate(
    _map: *mut c_void,
    key: *const FlowKey,
    flow: *const Flow,
    look: *mut Look,
) -> i64 {
    // SAFETY: as in `flow`.
    unsafe {
        if is_idle(flow, look) {
            let _ = CANDIDATES.remove(&*key);
        }
    }
    NEXT
}

/// # Safety
/// Called by the kernel for an entry of `SOURCES`.
unsafe extern "C" fn source(
    _map: *mut c_void,
    key: *const SourceKey,
    source: *const Source,
    look: *mut Look,
) -> i64 {
    // SAFETY: as in `flow`.
    unsafe {
        let count = atomic::load(&raw const (*source).conns);
        let last_ns = atomic::load(&raw const (*source).last_ns);
        if is_source_idle(count, last_ns, (*look).at) {
            let key = *key;
            forget_source(&key, (*look).at);
        }
    }
    NEXT
}

/// Whether a flow has been silent for too long.
///
/// # Safety
/// As [`flow`].
#[inline(always)]
unsafe fn is_idle(flow: *const Flow, look: *const Look) -> bool {
    // SAFETY: as in `flow`.
    unsafe {
        let last_ns = atomic::load(&raw const (*flow).last_ns);
        let idle_ns = flow_idle((*flow).state, (*look).idle_ns);
        last_ns.saturating_add(idle_ns) < (*look).at
    }
}
