//! The places of flows that were answered and not confirmed. Their users may not exist: whoever forges sources
//! makes as many as he likes, of everybody or of a certain user. So they count under `max_flows` and
//! `max_conns_per_source`, but keep nobody out: who comes when there is no room takes the place of one of them, who has
//! no more of his own share one of his own.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use totoro_api::Reason;
use totoro_ebpf::abi::{ANSWERED_PLACES, FLOW_CONFIRMED, FlowKey, SOURCE_FLOWS};
use totoro_ebpf::logic::{answered, known::mark, prefix};
use totoro_ebpf::packet::{Words, words};

use super::charge::forget_source_of;
use super::{LAST, NEXT, config, flows};
use crate::maps::{ANSWERED, FLOWS, TENANTS};

/// What each flow is one of: all of its tenant's, of its parent's tenants', of its source's at the tenant's ports.
const TENANTS_OWN: u32 = 0;
const PARENTS: u32 = 1;
const ONE_SOURCES: u32 = 2;

/// No place, and no kind.
pub(super) const NONE: u32 = u32::MAX;

/// How many places are looked at. With a quarter of all notes those of flows that give way, 99 of 100 newcomers find
/// one.
const TRIES: u32 = 16;

/// Flows that share places: those of a tenant, of all of a parent's tenants, or of one source of a tenant's.
#[derive(Default)]
struct Share {
    /// Tenant or parent; 0 = nobody.
    tenant: u32,
    /// How many it may have.
    max: u32,
    /// What they are.
    kind: u32,
    /// What their places are known by.
    number: u32,
    /// Of [`ONE_SOURCES`]: which.
    source: Words,
}

/// A look for a place.
struct Look {
    share: Share,
    /// One whose flow gives way, or one that nobody needs.
    taken: bool,
    /// Where to begin.
    first: u32,
    /// The place, or [`NONE`].
    place: u32,
}

/// Who has no more, where a newcomer is refused for this reason ([`TENANTS_OWN`] and so on), or [`NONE`]: then nobody's
/// place would help.
#[inline(always)]
pub(super) fn full_of(reason: u32) -> u32 {
    if reason == Reason::MaxFlows.number() {
        TENANTS_OWN
    } else if reason == Reason::PublicFull.number() {
        PARENTS
    } else if reason == Reason::MaxConnsPerSource.number() {
        ONE_SOURCES
    } else {
        NONE
    }
}

/// Ends a flow that is not confirmed, for a newcomer of a tenant's, among those who have no more; whether there was one.
/// One that is confirmed in this very moment goes with it, and begins anew with its next datagram.
#[inline(always)]
pub(super) fn make_room(newcomer: &FlowKey, tenant: u32, full: u32, at: u64) -> bool {
    let place = find(newcomer, tenant, full);
    place != NONE && free(newcomer, place, tenant, full, at)
}

/// The place that a newcomer to a tenant may take, among those who have no more, or [`NONE`].
#[inline(always)]
pub(super) fn find(newcomer: &FlowKey, tenant: u32, full: u32) -> u32 {
    look_for(newcomer, tenant, full, true)
}

/// Ends the flow that is noted in a place, if it still gives way to this newcomer. (Another may have been noted there
/// since: of those who have no more one is as good as the other.) Without a [`Share`]: Linux 6.1 adds up the frames of
/// all that calls this, and of what it calls.
#[inline(never)]
fn free(newcomer: &FlowKey, place: u32, tenant: u32, full: u32, at: u64) -> bool {
    let Some(noted) = ANSWERED.get(place) else {
        return false;
    };
    let key = *noted;
    let source = prefix::source_words(words(&newcomer.remote));
    if full == ONE_SOURCES && prefix::source_words(words(&key.remote)) != source {
        return false;
    }
    let mut number = tenant;
    if full == PARENTS {
        // SAFETY: the value is read once.
        number = unsafe { TENANTS.get(&tenant) }.map_or(0, |tenant| tenant.parent);
    }
    let owner = owner_of(&key, number);
    if owner == 0 || !flows::end(&key, at) {
        return false;
    }
    // Else a flood of forged sources fills that table, of which there is one for all.
    forget_source_of(&key.remote, owner, SOURCE_FLOWS, at);
    true
}

/// Whose flow this is, if it is a tenant's or a parent's and gives way, because it is not confirmed; or 0.
#[inline(always)]
fn owner_of(key: &FlowKey, number: u32) -> u32 {
    // SAFETY: the value is read while the program runs.
    match unsafe { FLOWS.get(key) } {
        Some(flow)
            if number != 0
                && flow.state != FLOW_CONFIRMED
                && (flow.tenant == number || flow.parent == number) =>
        {
            flow.tenant
        }
        _ => 0,
    }
}

/// Notes a flow that was just answered: as its tenant's, its parent's and its source's. Of the flow whose place it took
/// nobody needs the note any more, and it is found: this look begins where that for a place to take did.
#[inline(never)]
pub(super) fn note(flow: &FlowKey, tenant: u32) {
    for kind in [TENANTS_OWN, PARENTS, ONE_SOURCES] {
        // Of who has no parent there is no such place.
        let place = look_for(flow, tenant, kind, false);
        if let Some(noted) = ANSWERED.get_ptr_mut(place) {
            // SAFETY: a live map value; who reads a note half written finds no flow of that name.
            unsafe { *noted = *flow };
        }
    }
}

impl Share {
    /// Becomes those of a kind that a newcomer to a tenant is one of; nobody where there are none. In place: a copy
    /// would pass the 512 bytes of stack.
    #[inline(always)]
    fn fill(&mut self, newcomer: &FlowKey, tenant: u32, kind: u32) {
        // SAFETY: values are read while the program runs.
        let Some(policy) = (unsafe { TENANTS.get(&tenant) }) else {
            return;
        };
        (self.kind, self.tenant, self.number) = (kind, tenant, tenant);
        self.max = policy.max_flows;
        if kind == PARENTS {
            (self.tenant, self.number) = (policy.parent, policy.parent);
            // SAFETY: as above.
            let parent = unsafe { TENANTS.get(&policy.parent) };
            self.max = parent.map_or(0, |parent| parent.max_flows);
        } else if kind == ONE_SOURCES {
            self.source = prefix::source_words(words(&newcomer.remote));
            self.number = answered::number(self.source, tenant, seed());
            self.max = policy.max_conns_per_source;
        }
    }

    #[inline(always)]
    fn place(&self, nth: u64) -> u32 {
        let place = answered::place(self.number, self.max, nth);
        if self.kind == ONE_SOURCES {
            ANSWERED_PLACES + place
        } else {
            place
        }
    }

    /// Whether a flow is one of these, and gives way.
    #[inline(always)]
    fn has(&self, key: &FlowKey) -> bool {
        let source = prefix::source_words(words(&key.remote));
        (self.kind != ONE_SOURCES || self.source == source) && owner_of(key, self.tenant) != 0
    }
}

#[inline(always)]
fn seed() -> u64 {
    config().map_or(0, |config| config.sketch_seed)
}

/// A place of a kind of flows that a flow is one of: one that is taken by whom a newcomer ends, or [`NONE`]; or else
/// one whose note nobody needs, and if none is found any. Each flow's look begins where its seeded hash says: two
/// at a time rarely meet, and nobody chooses whose note is lost.
#[inline(never)]
fn look_for(flow: &FlowKey, tenant: u32, kind: u32, taken: bool) -> u32 {
    let mut look = Look {
        share: Share::default(),
        taken,
        first: 0,
        place: NONE,
    };
    look.share.fill(flow, tenant, kind);
    if look.share.tenant == 0 {
        return NONE;
    }
    let remote = words(&flow.remote);
    look.first = mark(remote, flow.remote_port, flow.port, seed()) as u32;
    // SAFETY: a callback that uses `look` while this runs. A loop of our own would have the verifier walk each of the
    // tries.
    unsafe {
        bpf_loop(TRIES, try_next as *mut c_void, (&raw mut look).cast(), 0);
    }
    if look.place == NONE && !taken {
        look.place = look.share.place(look.first as u64);
    }
    look.place
}

/// # Safety
/// Called by the kernel, with the look that [`look_for`] told.
unsafe extern "C" fn try_next(nth: u32, look: *mut Look) -> i64 {
    // SAFETY: what `look_for` told, alive while this runs.
    let look = unsafe { &mut *look };
    let place = look.share.place(look.first as u64 + nth as u64);
    let Some(noted) = ANSWERED.get(place) else {
        return LAST;
    };
    // Copied, and asked for afterwards: a note that is being written is no flow's.
    let key = *noted;
    if look.share.has(&key) == look.taken {
        look.place = place;
        return LAST;
    }
    NEXT
}
