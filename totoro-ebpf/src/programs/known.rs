//! Marks of known UDP flows: the shield sets one when `FLOWS` says that a flow is confirmed, and whoever ends
//! the flow clears it. A datagram that finds its flow's mark needs no hash to pass.
//!
//! A mark is as good as the entry: it stands only while `FLOWS` has the flow (but for the moment in which that
//! is being ended), and all that it does is to let a datagram come to the socket, which judges it again.

use aya_ebpf::Global;
use totoro_ebpf::abi::{Config, FlowKey};
use totoro_ebpf::logic::{admit::UNHEARD_NS, known};
use totoro_ebpf::packet::{Words, words};

use crate::atomic;
use crate::maps::{CONFIG, FLOWS, HEARD, KNOWN};

/// From when on `HEARD` can be believed, boot-time ns; set at load. Before, candidates that are there were
/// perhaps last heard by programs that had another one.
#[unsafe(no_mangle)]
static HEARD_FROM_NS: Global<u64> = Global::new(u64::MAX);

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

/// Writes down that a candidate was heard.
#[inline(never)]
pub(super) fn hear(key: &FlowKey, at: u64) {
    let Some(config) = CONFIG.get(0) else { return };
    let place = place(config, key);
    if let Some(heard) = HEARD.get_ptr_mut(place) {
        // SAFETY: an aligned u64 of a live map value. A plain write: what another processor heard at the same
        // time says the same.
        unsafe { *heard = at };
    }
}

/// Whether `CANDIDATES` may have a flow. Of most new flows it is known so that they are new, without its hash.
#[inline(always)]
pub(super) fn may_be_candidate(config: &Config, key: &FlowKey, at: u64) -> bool {
    if at < HEARD_FROM_NS.load() {
        return true;
    }
    let heard = HEARD.get(place(config, key)).copied().unwrap_or(at);
    at < heard.saturating_add(UNHEARD_NS)
}

/// The place of a flow.
#[inline(always)]
fn place(config: &Config, key: &FlowKey) -> u32 {
    let remote = words(&key.remote);
    known::mark(remote, key.remote_port, key.port, config.sketch_seed).0
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
