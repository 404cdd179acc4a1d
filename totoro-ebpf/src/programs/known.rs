//! Marks of known UDP flows: the shield sets one when `FLOWS` says that a flow is confirmed, and whoever ends
//! the flow clears it. A datagram that finds its flow's mark needs no hash to pass.
//!
//! A mark is as good as the entry: it stands only while `FLOWS` has the flow (but for the moment in which that
//! is being ended), and all that it does is to let a datagram come to the socket, which judges it again.

use aya_ebpf::Global;
use totoro_ebpf::abi::{Config, FlowKey, KNOWN_WAYS};
use totoro_ebpf::logic::{admit::UNHEARD_NS, known};
use totoro_ebpf::packet::{Words, words};

use crate::atomic;
use crate::maps::{CONFIG, FLOWS, HEARD, KNOWN};

/// What stands at a place.
type Marks = [u64; KNOWN_WAYS];
// The ways are written out below: a loop over them is one that the verifier follows.
const _: () = assert!(KNOWN_WAYS == 4);

/// From when on `HEARD` can be believed, boot-time ns; set at load. Before, candidates that are there were
/// perhaps last heard by programs that had another one.
#[unsafe(no_mangle)]
static HEARD_FROM_NS: Global<u64> = Global::new(u64::MAX);

/// The mark of a flow, and the marks at its place.
#[inline(always)]
fn of(remote: Words, remote_port: u16, port: u16) -> Option<(*mut Marks, u64)> {
    // One that is not written yet has marked nothing.
    let seed = CONFIG.get(0)?.sketch_seed;
    let mark = known::mark(remote, remote_port, port, seed);
    Some((KNOWN.get_ptr_mut(known::place(mark))?, mark))
}

/// A way of a place.
#[inline(always)]
fn way(marks: *mut Marks, way: usize) -> *mut u64 {
    marks.cast::<u64>().wrapping_add(way)
}

/// Whether a flow has its mark.
#[inline(always)]
pub(super) fn is_marked(remote: Words, remote_port: u16, port: u16) -> bool {
    let Some((marks, mark)) = of(remote, remote_port, port) else {
        return false;
    };
    // SAFETY: aligned u64s of a live map value.
    let there = [0, 1, 2, 3].map(|nth| unsafe { atomic::load(way(marks, nth)) });
    known::is_among(mark, there)
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
    let mark = known::mark(remote, key.remote_port, key.port, config.sketch_seed);
    known::heard(mark)
}

/// Marks a flow that `FLOWS` has, in a way that is free, or in another's place.
#[inline(never)]
pub(super) fn mark(key: &FlowKey) {
    let Some((marks, mark)) = of(words(&key.remote), key.remote_port, key.port) else {
        return;
    };
    // SAFETY: aligned u64s of a live map value.
    let is_free = |nth| unsafe { atomic::load(way(marks, nth)) } == 0;
    let nth = match () {
        () if is_free(0) => 0,
        () if is_free(1) => 1,
        () if is_free(2) => 2,
        () if is_free(3) => 3,
        () => known::way(mark),
    };
    // SAFETY: as above.
    unsafe { atomic::swap(way(marks, nth), mark) };
    // Whoever ended it meanwhile may have come too early to clear the mark. The swap is a barrier: either
    // they see the mark, or we see that the flow is gone.
    // SAFETY: a lookup whose value is not used.
    if unsafe { FLOWS.get(key) }.is_none() {
        // SAFETY: the place that was just written.
        unsafe { clear(marks, mark) };
    }
}

/// Clears the mark of a flow that was just removed from `FLOWS`.
#[inline(never)]
pub(super) fn forget(key: &FlowKey) {
    if let Some((marks, mark)) = of(words(&key.remote), key.remote_port, key.port) {
        // SAFETY: the marks of a live map value.
        unsafe { clear(marks, mark) };
    }
}

/// Clears a mark wherever it stands: two processors may have marked the flow at once, each in another way. Another
/// flow may take the place in between; then it loses its mark, and gets it again with the next datagram. No call of
/// its own: frames of calls add up.
///
/// # Safety
/// `marks` are of a live map value.
#[inline(always)]
unsafe fn clear(marks: *mut Marks, mark: u64) {
    let clear = |nth| {
        let at = way(marks, nth);
        // SAFETY: the caller's.
        unsafe {
            if atomic::load(at) == mark {
                atomic::swap(at, 0);
            }
        }
    };
    clear(0);
    clear(1);
    clear(2);
    clear(3);
}
