//! What glibc keeps of what is freed: by default more and more the larger what was once freed, and a
//! start frees much that is never needed again.

#![expect(
    unsafe_code,
    reason = "mallopt(3) and malloc_trim(3) are functions of C"
)]

/// From this size on what is allocated is a mapping of its own, which goes back when it is freed; and
/// so much at most stays free at the heap's end. Bytes; half of glibc's first values, which it raises
/// to 32 MiB and twice that by itself unless they are set.
#[cfg(target_env = "gnu")]
const THRESHOLD: libc::c_int = 64 << 10;

/// Has the allocator give large blocks back. To be called before there are other threads.
pub(crate) fn give_large_blocks_back() {
    #[cfg(target_env = "gnu")]
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: it takes two integers, and no other thread is there to allocate meanwhile. A refusal
        // leaves the option as it was.
        unsafe { libc::mallopt(option, THRESHOLD) };
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
