//! The places of flows that were answered and not confirmed. Their users may not exist: whoever forges sources
//! makes as many as he likes, of everybody or of a certain user. So they count under `max_flows` and
//! `max_conns_per_source`, but keep nobody out: who comes when there is no room takes the place of one of them, who has
//! no more of his own share one of his own.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use totoro_api::Reason;
use totoro_ebpf::abi::{ANSWERED_PLACES, FLOW_CONFIRMED, Flow, FlowKey, SOURCE_FLOWS};
use totoro_ebpf::logic::{answered, known::mark, prefix};
use totoro_ebpf::packet::{Words, words};

use super::charge::forget_source_of;
use super::{LAST, NEXT, config, flows};
use crate::maps::{ANSWERED, FLOWS, TENANTS, USAGE};

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// How many places are looked at for one to take. With a quarter of a tenant's flows unconfirmed, 99 of 100
/// newcomers find one.
const TRIES: u32 = 16;

/// Flows that share places: those of a tenant, of all of a parent's tenants, or of one source of a tenant's.
#[derive(Default)]
struct Share {
    /// Tenant or parent; 0 = nobody.
    tenant: u32,
    /// How many it may have.
    max: u32,
    /// [`ANYBODY`], or the source.
    source: Words,
    /// What its places are known by.
    number: u32,
}

/// No source: no user has the address `::`.
const ANYBODY: Words = [0, 0];

/// A look for a flow to take the place of.
struct Look {
    share: Share,
    /// Where to begin.
    first: u32,
    /// The place, or [`NONE`].
    place: u32,
}

/// Whether a newcomer, refused for this reason, may take the place of another of those who have no more.
#[inline(always)]
pub(super) fn gives_way(reason: u32) -> bool {
    reason == Reason::MaxFlows.number()
        || reason == Reason::PublicFull.number()
        || reason == Reason::MaxConnsPerSource.number()
}

/// Ends a flow that is not confirmed, for a newcomer of a tenant's, among those who have no more by this reason; its
/// place. One that is confirmed in this very moment goes with it, and begins anew with its next datagram.
#[inline(always)]
pub(super) fn take(newcomer: &FlowKey, tenant: u32, full: u32, at: u64) -> u32 {
    let place = find(newcomer, tenant, full);
    if place != NONE && free(place, tenant, full, at) {
        place
    } else {
        NONE
    }
}

/// Ends the flow that is noted in a place, if it is still one that gives way. (Another may have been noted there since:
/// of the same tenant or parent it is as good as that one.)
#[inline(never)]
fn free(place: u32, tenant: u32, full: u32, at: u64) -> bool {
    let Some(noted) = ANSWERED.get(place) else {
        return false;
    };
    let key = *noted;
    let mut number = tenant;
    if full == Reason::PublicFull.number() {
        // SAFETY: the value is read once.
        number = unsafe { TENANTS.get(&tenant) }.map_or(0, |tenant| tenant.parent);
    }
    // SAFETY: values are read while the program runs.
    let owner = match unsafe { FLOWS.get(&key) } {
        Some(flow) if is_open(flow, number) => flow.tenant,
        _ => return false,
    };
    if !flows::end(&key, at) {
        return false;
    }
    // Else a flood of forged sources fills that table, of which there is one for all.
    forget_source_of(&key.remote, owner, SOURCE_FLOWS, at);
    true
}

/// Whether a flow is a tenant's or a parent's, and not confirmed.
#[inline(always)]
fn is_open(flow: &Flow, number: u32) -> bool {
    flow.state != FLOW_CONFIRMED && (flow.tenant == number || flow.parent == number)
}

/// Notes a flow that was just answered: as its tenant's, its parent's and its source's. In the place that it took of
/// those who had no more by this reason, and in the next one of each other's.
#[inline(never)]
pub(super) fn note(flow: &FlowKey, tenant: u32, full: u32, taken: u32) {
    for kind in [
        Reason::MaxFlows.number(),
        Reason::PublicFull.number(),
        Reason::MaxConnsPerSource.number(),
    ] {
        let place = if kind == full { taken } else { NONE };
        note_as(flow, tenant, kind, place);
    }
}

#[inline(never)]
fn note_as(flow: &FlowKey, tenant: u32, kind: u32, taken: u32) {
    let mut share = Share::default();
    share.fill(flow, tenant, kind);
    let mut place = taken;
    if place == NONE {
        // SAFETY: the value is read once.
        let Some(usage) = (unsafe { USAGE.get(&share.tenant) }) else {
            return;
        };
        place = share.place(usage.flows_opened);
    }
    if let Some(noted) = ANSWERED.get_ptr_mut(place) {
        // SAFETY: a live map value; who reads a note half written finds no flow of that name.
        unsafe { *noted = *flow };
    }
}

impl Share {
    /// Becomes those of whom a newcomer to a tenant would be one too many, for this reason. In place: a copy would pass
    /// the 512 bytes of stack.
    #[inline(always)]
    fn fill(&mut self, newcomer: &FlowKey, tenant: u32, full: u32) {
        // SAFETY: values are read while the program runs.
        let Some(policy) = (unsafe { TENANTS.get(&tenant) }) else {
            return;
        };
        (self.tenant, self.number) = (tenant, tenant);
        self.max = policy.max_flows;
        if full == Reason::PublicFull.number() {
            (self.tenant, self.number) = (policy.parent, policy.parent);
            // SAFETY: as above.
            let parent = unsafe { TENANTS.get(&policy.parent) };
            self.max = parent.map_or(0, |parent| parent.max_flows);
        } else if full == Reason::MaxConnsPerSource.number() {
            self.source = prefix::source_words(words(&newcomer.remote));
            self.number = answered::number(self.source, tenant, seed());
            self.max = policy.max_conns_per_source;
        }
    }

    #[inline(always)]
    fn place(&self, nth: u64) -> u32 {
        let place = answered::place(self.number, self.max, nth);
        if self.source == ANYBODY {
            place
        } else {
            ANSWERED_PLACES + place
        }
    }
}

#[inline(always)]
fn seed() -> u64 {
    config().map_or(0, |config| config.sketch_seed)
}

/// The place that a newcomer to a tenant may take, among those who have no more by this reason, or [`NONE`]. Newcomers
/// begin to look at different places, so that two at a time rarely end the same flow.
#[inline(never)]
pub(super) fn find(newcomer: &FlowKey, tenant: u32, full: u32) -> u32 {
    let mut look = Look {
        share: Share::default(),
        first: 0,
        place: NONE,
    };
    look.share.fill(newcomer, tenant, full);
    let remote = words(&newcomer.remote);
    look.first = mark(remote, newcomer.remote_port, newcomer.port, seed()) as u32;
    // SAFETY: a callback that uses `look` while this runs. A loop of our own would have the verifier walk each of the
    // tries.
    unsafe {
        bpf_loop(TRIES, try_next as *mut c_void, (&raw mut look).cast(), 0);
    }
    look.place
}

/// # Safety
/// Called by the kernel, with the look that [`find`] told.
unsafe extern "C" fn try_next(nth: u32, look: *mut Look) -> i64 {
    // SAFETY: what `find` told, alive while this runs.
    let look = unsafe { &mut *look };
    let place = look.share.place(look.first as u64 + nth as u64);
    let Some(noted) = ANSWERED.get(place) else {
        return LAST;
    };
    // Copied, and asked for afterwards: a note that is being written is no flow's.
    let key = *noted;
    let source = prefix::source_words(words(&key.remote));
    if look.share.source != ANYBODY && look.share.source != source {
        return NEXT;
    }
    // SAFETY: the value is read while the program runs.
    let flow = unsafe { FLOWS.get(&key) };
    if flow.is_some_and(|flow| is_open(flow, look.share.tenant)) {
        look.place = place;
        return LAST;
    }
    NEXT
}
