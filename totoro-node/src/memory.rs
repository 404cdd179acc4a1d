//! What glibc keeps of what is freed: by default more and more the larger what was once freed, and a
//! start frees much that is never needed again.

#![expect(
    unsafe_code,
    reason = "mallopt(3) and malloc_trim(3) are functions of C"
)]

/// From this size on what is allocated is a mapping of its own, which goes back when it is freed;
/// bytes. glibc's first value, which it raises to 32 MiB by itself unless it is set.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 128 << 10;
/// So much at most stays free at a heap's end, bytes. Less would have busy threads ask the system for
/// the same pages again and again.
#[cfg(target_env = "gnu")]
const SPARE: libc::c_int = 4 << 20;

/// Has the allocator give large blocks back. To be called before there are other threads.
pub(crate) fn give_large_blocks_back() {
    #[cfg(target_env = "gnu")]
    for (option, bytes) in [
        (libc::M_MMAP_THRESHOLD, MAPPED),
        (libc::M_TRIM_THRESHOLD, SPARE),
    ] {
        // SAFETY: it takes two integers, and no other thread is there to allocate meanwhile. A refusal
        // leaves the option as it was.
        unsafe { libc::mallopt(option, bytes) };
    }
}

/// Gives back every page that is wholly free, in all threads' heaps.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes an integer, and may be called at any time by any thread.
    unsafe {
        libc::malloc_trim(0)
    };
}
