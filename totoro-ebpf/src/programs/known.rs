//! Marks of known UDP flows: the shield sets one when `FLOWS` says that a flow is confirmed, and whoever ends
//! the flow clears it. A datagram that finds its flow's mark needs no hash to pass.
//!
//! A mark is as good as the entry: it stands only while `FLOWS` has the flow (but for the moment in which that
//! is being ended), and all that it does is to let a datagram come to the socket, which judges it again.

use totoro_ebpf::abi::FlowKey;
use totoro_ebpf::logic::known;
use totoro_ebpf::packet::{Words, words};

use crate::atomic;
use crate::maps::{CONFIG, FLOWS, KNOWN};

/// The place of a flow, and its mark.
#[inline(always)]
fn of(remote: Words, remote_port: u16, port: u16) -> Option<(*mut u64, u64)> {
    // One that is not written yet has marked nothing.
    let seed = CONFIG.get(0)?.sketch_seed;
    let (place, mark) = known::mark(remote, remote_port, port, seed);
    Some((KNOWN.get_ptr_mut(place)?, mark))
}

/// Whether a flow has its mark.
#[inline(always)]
pub(super) fn is_marked(remote: Words, remote_port: u16, port: u16) -> bool {
    // SAFETY: an aligned u64 of a live map value.
    of(remote, remote_port, port).is_some_and(|(at, mark)| unsafe { atomic::load(at) } == mark)
}

/// Marks a flow that `FLOWS` has.
#[inline(never)]
pub(super) fn mark(key: &FlowKey) {
    let Some((at, mark)) = of(words(&key.remote), key.remote_port, key.port) else {
        return;
    };
    // SAFETY: an aligned u64 of a live map value.
    unsafe { atomic::swap(at, mark) };
    // Whoever ended it meanwhile may have come too early to clear the mark. The swap is a barrier: either
    // they see the mark, or we see that the flow is gone.
    // SAFETY: a lookup whose value is not used.
    if unsafe { FLOWS.get(key) }.is_none() {
        // SAFETY: the place that was just written.
        unsafe { clear(at, mark) };
    }
}

/// Clears the mark of a flow that was just removed from `FLOWS`.
#[inline(never)]
pub(super) fn forget(key: &FlowKey) {
    if let Some((at, mark)) = of(words(&key.remote), key.remote_port, key.port) {
        // SAFETY: an aligned u64 of a live map value.
        unsafe { clear(at, mark) };
    }
}

/// Clears a mark where it stands. Another flow may take the place in between; then it loses its mark, and
/// gets it again with the next datagram. No call of its own: frames of calls add up.
///
/// # Safety
/// As [`atomic::load`].
#[inline(always)]
unsafe fn clear(at: *mut u64, mark: u64) {
    // SAFETY: the caller's.
    unsafe {
        if atomic::load(at) == mark {
            atomic::swap(at, 0);
        }
    }
}
