//! New UDP flows of a tenant: so many of them wait for their first answer, and no more.

use totoro_ebpf::abi::FlowKey;
use totoro_ebpf::logic::waiting;

use crate::atomic;
use crate::maps::{CANDIDATES, TURNS, WAITING};

/// [`Flow::heard`](totoro_ebpf::abi::Flow) of a flow that waits, and whose user has written again since it was noted.
pub(super) const AGAIN: u32 = 1;

/// Places that are looked at for one to take.
const TRIES: u32 = 4;

/// Notes a flow that is about to begin, and forgets the one whose place it takes, if that waits still. One whose user
/// has written again (some are never answered) keeps its place the first time, and so does another tenant's.
#[inline(never)]
pub(super) fn note(flow: &FlowKey, tenant: u32) {
    for nth in 1..=TRIES {
        if is_noted(flow, tenant, nth == TRIES) {
            return;
        }
    }
}

/// Notes a flow in the tenant's next place, where that may be taken; whether it was.
#[inline(always)]
fn is_noted(flow: &FlowKey, tenant: u32, is_last: bool) -> bool {
    let Some(turns) = TURNS.get_ptr_mut(waiting::turn(tenant)) else {
        return true;
    };
    // SAFETY: an aligned u64 of a live map value.
    let nth = unsafe { atomic::add(turns, 1) };
    let Some(noted) = WAITING.get_ptr_mut(waiting::place(tenant, nth)) else {
        return true;
    };
    // SAFETY: a live map value, copied; who reads a note half written finds no flow of that name.
    let before = unsafe { *noted };
    if let Some(waits) = CANDIDATES.get_ptr_mut(&before) {
        // SAFETY: aligned fields of a live map value.
        unsafe {
            if (*waits).tenant != tenant {
                return false;
            }
            if (*waits).heard == AGAIN && !is_last {
                (*waits).heard = 0;
                return false;
            }
        }
        let _ = CANDIDATES.remove(&before);
    }
    // SAFETY: as above.
    unsafe { *noted = *flow };
    true
}
