//! New UDP flows of a tenant: the last ones wait for their first answer, and no more.

use totoro_ebpf::abi::FlowKey;
use totoro_ebpf::logic::waiting;

use crate::atomic;
use crate::maps::{CANDIDATES, TURNS, WAITING};

/// Notes a flow that is about to begin, and forgets the one whose place it takes, if that waits still.
#[inline(never)]
pub(super) fn note(flow: &FlowKey, tenant: u32) {
    let Some(turns) = TURNS.get_ptr_mut(waiting::turn(tenant)) else {
        return;
    };
    // SAFETY: an aligned u64 of a live map value.
    let nth = unsafe { atomic::add(turns, 1) };
    let Some(noted) = WAITING.get_ptr_mut(waiting::place(tenant, nth)) else {
        return;
    };
    // SAFETY: a live map value; who reads a note half written finds no flow of that name.
    let before = unsafe { core::mem::replace(&mut *noted, *flow) };
    // SAFETY: the value is read once.
    let own = unsafe { CANDIDATES.get(&before) }.is_some_and(|flow| flow.tenant == tenant);
    if own {
        let _ = CANDIDATES.remove(&before);
    }
}
