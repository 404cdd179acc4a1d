//! The places of flows that were answered and not confirmed. Their users may not exist: whoever forges sources
//! makes as many as he likes. So they count under `max_flows`, but keep nobody out: who comes when there is no
//! room takes the place of one of them.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use totoro_ebpf::abi::{FLOW_CONFIRMED, FlowKey};
use totoro_ebpf::logic::{answered, known::mark};
use totoro_ebpf::packet::words;

use super::config;
use crate::maps::{ANSWERED, FLOWS, TENANTS, USAGE};

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// How many places are looked at for one to take. With a quarter of a tenant's flows unconfirmed, 99 of 100
/// newcomers find one.
const TRIES: u32 = 16;

/// What bpf_loop is told by its callback.
const NEXT: i64 = 0;
const LAST: i64 = 1;

/// A look for a flow to take the place of.
pub(super) struct Look {
    tenant: u32,
    max_flows: u32,
    /// Where to begin.
    first: u32,
    /// The place, or [`NONE`].
    pub(super) place: u32,
    /// The flow that is noted there.
    pub(super) flow: FlowKey,
    /// Whose it is.
    pub(super) owner: u32,
}

/// Whether a newcomer to a tenant finds a flow to take the place of, where the tenant has no more or (`of_parent`)
/// the tenant's parent.
#[inline(never)]
pub(super) fn is_possible(newcomer: &FlowKey, mut tenant: u32, of_parent: bool) -> bool {
    if of_parent {
        // SAFETY: the value is read once.
        tenant = unsafe { TENANTS.get(&tenant) }.map_or(0, |tenant| tenant.parent);
    }
    find(newcomer, tenant, max_flows(tenant)).place != NONE
}

/// How many flows a tenant may have.
#[inline(always)]
pub(super) fn max_flows(tenant: u32) -> u32 {
    // SAFETY: the value is read once.
    unsafe { TENANTS.get(&tenant) }.map_or(0, |tenant| tenant.max_flows)
}

/// The place that a newcomer may take, and the flow that has it. Newcomers begin to look at different places, so that
/// two at a time rarely end the same flow.
#[inline(always)]
pub(super) fn find(newcomer: &FlowKey, tenant: u32, max_flows: u32) -> Look {
    let mut look = Look {
        tenant,
        max_flows,
        first: 0,
        place: NONE,
        flow: FlowKey::default(),
        owner: 0,
    };
    if let Some(config) = config() {
        let remote = words(&newcomer.remote);
        let seed = config.sketch_seed;
        look.first = mark(remote, newcomer.remote_port, newcomer.port, seed) as u32;
        // SAFETY: a callback that uses `look` while this runs. A loop of our own would have the verifier walk each of
        // the tries.
        unsafe {
            bpf_loop(TRIES, try_next as *mut c_void, (&raw mut look).cast(), 0);
        }
    }
    look
}

/// # Safety
/// Called by the kernel, with the look that [`find`] told.
unsafe extern "C" fn try_next(nth: u32, look: *mut Look) -> i64 {
    // SAFETY: what `find` told, alive while this runs. A note is copied, and asked for afterwards: one that is being
    // written is no flow's.
    unsafe {
        let nth = (*look).first as u64 + nth as u64;
        let place = answered::place((*look).tenant, (*look).max_flows, nth);
        let Some(noted) = ANSWERED.get(place) else {
            return LAST;
        };
        (*look).flow = *noted;
        if let Some(flow) = FLOWS.get(&(*look).flow)
            && flow.state != FLOW_CONFIRMED
            && (flow.tenant == (*look).tenant || flow.parent == (*look).tenant)
        {
            (*look).owner = flow.tenant;
            (*look).place = place;
            return LAST;
        }
    }
    NEXT
}

/// Notes a flow that was just answered, as a tenant's or a parent's: in the place that it took, or in the next one.
#[inline(never)]
pub(super) fn note(flow: &FlowKey, tenant: u32, max_flows: u32, taken: u32) {
    let mut place = taken;
    if place == NONE {
        // SAFETY: the value is read once.
        let Some(usage) = (unsafe { USAGE.get(&tenant) }) else {
            return;
        };
        place = answered::place(tenant, max_flows, usage.flows_opened);
    }
    if let Some(noted) = ANSWERED.get_ptr_mut(place) {
        // SAFETY: a live map value; who reads a note half written finds no flow of that name.
        unsafe { *noted = *flow };
    }
}
