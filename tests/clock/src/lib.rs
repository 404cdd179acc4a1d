//! Preloaded into a process (`LD_PRELOAD`), puts its wall clock off by the milliseconds in the file
//! `TOTORO_CLOCK_FILE`: eight bytes, as this machine orders them, which may change while it runs.
//!
//! `CLOCK_REALTIME` has no namespace, and the machine's own is everybody's. The kernel and its programs
//! are not fooled by this; they go by the time since boot, which nobody can set.

#![expect(unsafe_code, reason = "a function of the C library's is replaced")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use libc::{c_int, c_long, clockid_t, timespec};

const PER_S: i64 = 1_000_000_000;
const PER_MS: i64 = 1_000_000;

/// `clock_gettime(2)`, by which Rust's standard library tells the time.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, at: *mut timespec) -> c_int {
    // SAFETY: the caller's promise.
    let answer = unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), at) };
    if answer == 0 && clock == libc::CLOCK_REALTIME {
        // SAFETY: the call has just written it.
        let at = unsafe { &mut *at };
        let off_ms = off_ms();
        let ns = at.tv_nsec + off_ms % 1_000 * PER_MS;
        at.tv_sec += off_ms / 1_000 + ns.div_euclid(PER_S);
        at.tv_nsec = ns.rem_euclid(PER_S);
    }
    c_int::try_from(answer).unwrap_or(-1)
}

fn off_ms() -> i64 {
    static FILE: OnceLock<Option<&'static AtomicI64>> = OnceLock::new();
    let shared = FILE.get_or_init(shared);
    shared.map_or(0, |off| off.load(Ordering::Relaxed))
}

/// The file's number, as long as the process lives.
fn shared() -> Option<&'static AtomicI64> {
    let file = File::open(std::env::var_os("TOTORO_CLOCK_FILE")?).ok()?;
    let length = size_of::<AtomicI64>();
    if file.metadata().ok()?.len() < length as u64 {
        return None;
    }
    // SAFETY: a new mapping, of a file that is open and long enough.
    let at = unsafe {
        let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
        libc::mmap(
            std::ptr::null_mut(),
            length,
            read,
            shared,
            file.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: a page begins there that is never unmapped, and is only read here, by atomic loads.
    Some(unsafe { &*at.cast::<AtomicI64>() })
}
