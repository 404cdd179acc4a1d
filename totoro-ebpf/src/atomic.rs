//! Atomics on map memory. `core::sync::atomic` has no read-modify-write for the BPF target, so
//! these are the compiler's intrinsics, which target-cpu v3 turns into single instructions.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg, atomic_xsub};

/// Tries of a compare-and-swap before the caller takes the safe side. A try fails only when
/// another CPU succeeded in between.
pub(crate) const TRIES: u32 = 16;

/// Adds; the value before.
///
/// # Safety
/// `at` points to an aligned `u64` of a map value that the verifier knows.
#[inline(always)]
pub(crate) unsafe fn add(at: *mut u64, n: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(at, n) }
}

/// Subtracts; the value before.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn sub(at: *mut u64, n: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { atomic_xsub::<u64, u64, { AtomicOrdering::SeqCst }>(at, n) }
}

/// Replaces; the value before.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn swap(at: *mut u64, new: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(at, new) }
}

/// Takes one back, never below zero, and never gives up: a bounded compare-and-swap would lose the
/// discharge under contention, and with it a place for good. Who finds what another has just taken below zero puts its
/// own back too.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn take_back(at: *mut u64) {
    // SAFETY: the caller's.
    unsafe {
        if sub(at, 1).cast_signed() <= 0 {
            add(at, 1);
        }
    }
}

/// Reads, never torn and never from a register.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn load(at: *const u64) -> u64 {
    // SAFETY: the caller's; a 64-bit aligned read is one instruction.
    unsafe { core::ptr::read_volatile(at) }
}

/// Replaces the value by what `next` makes of it, while `next` makes something; whether it did.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub(crate) unsafe fn update(at: *mut u64, next: impl Fn(u64) -> Option<u64>) -> bool {
    for _ in 0..TRIES {
        // SAFETY: the caller's.
        let old = unsafe { load(at) };
        let Some(new) = next(old) else { return false };
        // SAFETY: the caller's.
        let (_, done) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                at, old, new,
            )
        };
        if done {
            return true;
        }
    }
    false
}
