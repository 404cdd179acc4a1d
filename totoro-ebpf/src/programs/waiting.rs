//! New UDP flows of a tenant: so many of them wait for their first answer, and no more.

use totoro_ebpf::abi::FlowKey;
use totoro_ebpf::logic::waiting;

use crate::atomic;
use crate::maps::{CANDIDATES, TURNS, WAITING};

/// [`Flow::heard`](totoro_ebpf::abi::Flow) of a flow that waits, and whose user has written again since it was noted.
pub(super) const AGAIN: u32 = 1;

/// Places that are looked at for one to take.
const TRIES: u32 = 4;

/// Nowhere: not that of any flow.
const NOWHERE: u32 = 0;

/// Notes a flow that is about to begin, and forgets the one whose place it takes, if that waits still. One whose user
/// has written again (some are never answered) keeps its place the first time, and so does another tenant's. Where it
/// is noted, which the flow must know: a note of its that is older than it, of the same user some time ago, is none.
#[inline(never)]
pub(super) fn note(flow: &FlowKey, tenant: u32) -> u32 {
    for nth in 1..=TRIES {
        let place = noted_at(flow, tenant, nth == TRIES);
        if place != NOWHERE {
            return place;
        }
    }
    NOWHERE
}

/// Notes a flow in the tenant's next place, where that may be taken: which one it is, from 1 on.
#[inline(always)]
fn noted_at(flow: &FlowKey, tenant: u32, is_last: bool) -> u32 {
    let Some(turns) = TURNS.get_ptr_mut(waiting::turn(tenant)) else {
        return NOWHERE;
    };
    // SAFETY: an aligned u64 of a live map value.
    let place = waiting::place(tenant, unsafe { atomic::add(turns, 1) });
    let Some(noted) = WAITING.get_ptr_mut(place) else {
        return NOWHERE;
    };
    // SAFETY: a live map value, copied; who reads a note half written finds no flow of that name.
    let before = unsafe { *noted };
    if let Some(waits) = CANDIDATES.get_ptr_mut(&before) {
        // SAFETY: aligned fields of a live map value.
        let (at, of, heard) = unsafe { ((*waits).parent, (*waits).tenant, (*waits).heard) };
        if at == place + 1 {
            if of != tenant {
                return NOWHERE;
            }
            if heard == AGAIN && !is_last {
                // SAFETY: as above.
                unsafe { (*waits).heard = 0 };
                return NOWHERE;
            }
            let _ = CANDIDATES.remove(&before);
        }
    }
    // SAFETY: as above.
    unsafe { *noted = *flow };
    place + 1
}
