//! The C library's functions by which Rust's standard library and sled change files. Each makes the
//! system call itself, then records it; `errno` is the call's, since recording may change it.
//!
//! What is not here is not seen: memory maps, `writev`, `copy_file_range`. Whoever replays a trace
//! compares all of it with the files as they are, which finds that.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use libc::{c_long, mode_t, off64_t, size_t, ssize_t};

use crate::fail;
use crate::format::kind;
use crate::slow;
use crate::trace::{name_at, name_of, record};

/// Restores `errno` when dropped.
struct Errno(c_int);

impl Errno {
    fn keep() -> Self {
        // SAFETY: the thread's own errno is always readable.
        Errno(unsafe { *libc::__errno_location() })
    }
}

impl Drop for Errno {
    fn drop(&mut self) {
        // SAFETY: the thread's own errno is always writable.
        unsafe { *libc::__errno_location() = self.0 }
    }
}

/// The result in the type of the C function; these calls answer 0, -1 or a descriptor.
fn narrow(result: c_long) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

/// Whether a call is to fail; then `errno` says why.
fn broken(call: &str, fd: c_int) -> bool {
    let errno = Errno::keep();
    let fails = fail::fails(call, || name_of(fd));
    drop(errno);
    if fails {
        fail::set_errno(libc::EIO);
    }
    fails
}

/// The bytes that a write call has taken.
///
/// # Safety
/// `buffer` holds at least `taken` bytes, as it does after such a call.
unsafe fn taken<'a>(buffer: *const c_void, taken: usize) -> &'a [u8] {
    if taken == 0 {
        return &[];
    }
    // SAFETY: the caller's promise; the call has just read them.
    unsafe { std::slice::from_raw_parts(buffer.cast(), taken) }
}

/// `write(2)`; where it was written, the file's position tells afterwards.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    if broken(fail::WRITE, fd) {
        return -1;
    }
    // SAFETY: the caller's arguments, as they are.
    let written = unsafe { libc::syscall(libc::SYS_write, fd, buffer, count) } as ssize_t;
    let _errno = Errno::keep();
    if let Ok(length @ 1..) = usize::try_from(written)
        && let Some(name) = name_of(fd)
    {
        // SAFETY: lseek has no memory arguments.
        let end = unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
        if let Ok(end) = u64::try_from(end) {
            // SAFETY: the kernel has read so many bytes from there.
            let data = unsafe { taken(buffer, length) };
            record(kind::WRITE, &name, end - length as u64, data);
        }
    }
    written
}

/// `pwrite(2)`.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    fd: c_int,
    buffer: *const c_void,
    count: size_t,
    offset: off64_t,
) -> ssize_t {
    if broken(fail::WRITE, fd) {
        return -1;
    }
    // SAFETY: the caller's arguments, as they are.
    let written =
        unsafe { libc::syscall(libc::SYS_pwrite64, fd, buffer, count, offset) } as ssize_t;
    let _errno = Errno::keep();
    if let (Ok(length @ 1..), Ok(offset)) = (usize::try_from(written), u64::try_from(offset))
        && let Some(name) = name_of(fd)
    {
        // SAFETY: the kernel has read so many bytes from there.
        record(kind::WRITE, &name, offset, unsafe { taken(buffer, length) });
    }
    written
}

/// [`pwrite64`] by its other name.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(
    fd: c_int,
    buffer: *const c_void,
    count: size_t,
    offset: off64_t,
) -> ssize_t {
    // SAFETY: the same function: off_t has 64 bits here.
    unsafe { pwrite64(fd, buffer, count, offset) }
}

/// `ftruncate(2)`.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, length: off64_t) -> c_int {
    // SAFETY: no memory arguments.
    let result = unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) };
    let _errno = Errno::keep();
    if let (0, Ok(length), Some(name)) = (result, u64::try_from(length), name_of(fd)) {
        record(kind::TRUNCATE, &name, length, &[]);
    }
    narrow(result)
}

/// [`ftruncate64`] by its other name.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(fd: c_int, length: off64_t) -> c_int {
    // SAFETY: the same function: off_t has 64 bits here.
    unsafe { ftruncate64(fd, length) }
}

/// `open(2)`. The mode is variadic in C; on the machines that we know it comes the same way.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments; the mode is not looked at without O_CREAT.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    let _errno = Errno::keep();
    if fd >= 0 && flags & (libc::O_CREAT | libc::O_TRUNC) != 0 {
        let cut = u8::from(flags & libc::O_TRUNC != 0);
        if let Some(name) = name_of(narrow(fd)) {
            record(kind::OPEN, &name, 0, &[cut]);
        }
    }
    narrow(fd)
}

/// [`open64`] by its other name.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the same function.
    unsafe { open64(path, flags, mode) }
}

/// `rename(2)`.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    let result = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            from,
            libc::AT_FDCWD,
            to,
            0,
        )
    };
    let _errno = Errno::keep();
    if result == 0 {
        // SAFETY: the kernel has read both as NUL-terminated paths.
        let (from, to) = unsafe { (CStr::from_ptr(from), CStr::from_ptr(to)) };
        if let (Some(from), Some(to)) = (name_at(from), name_at(to)) {
            record(kind::RENAME, &from, 0, to.as_os_str().as_encoded_bytes());
        }
    }
    narrow(result)
}

/// `unlink(2)`.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's argument, as it is.
    let result = unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) };
    let _errno = Errno::keep();
    if result == 0 {
        // SAFETY: the kernel has read it as a NUL-terminated path.
        if let Some(name) = name_at(unsafe { CStr::from_ptr(path) }) {
            record(kind::UNLINK, &name, 0, &[]);
        }
    }
    narrow(result)
}

/// `mkdir(2)`.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    let result = unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) };
    let _errno = Errno::keep();
    if result == 0 {
        // SAFETY: the kernel has read it as a NUL-terminated path.
        if let Some(name) = name_at(unsafe { CStr::from_ptr(path) }) {
            record(kind::MKDIR, &name, 0, &[]);
        }
    }
    narrow(result)
}

/// A sync: recorded before, since only what came before is made durable, and after it succeeded.
fn sync(fd: c_int, call: c_long) -> c_int {
    if broken(fail::SYNC, fd) {
        return -1;
    }
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let name = name_of(fd);
    let which = u64::from(std::process::id()) << 32 | COUNT.fetch_add(1, Ordering::Relaxed);
    let tell = |kind: u8, name: &Path| record(kind, name, which, &[]);
    if let Some(name) = &name {
        tell(kind::SYNC_BEGUN, name);
    }
    let began = Instant::now();
    // SAFETY: no memory arguments.
    let result = unsafe { libc::syscall(call, fd) };
    let _errno = Errno::keep();
    slow::wait_since(began);
    if let (0, Some(name)) = (result, &name) {
        tell(kind::SYNC_ENDED, name);
    }
    narrow(result)
}

/// `fsync(2)`.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fsync)
}

/// `fdatasync(2)`.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fdatasync)
}

/// `sync_file_range(2)`.
///
/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(
    fd: c_int,
    offset: off64_t,
    length: off64_t,
    flags: c_uint,
) -> c_int {
    // SAFETY: no memory arguments.
    let result = unsafe { libc::syscall(libc::SYS_sync_file_range, fd, offset, length, flags) };
    let _errno = Errno::keep();
    if let Some(name) = name_of(fd) {
        record(kind::SYNC_RANGE, &name, offset.unsigned_abs(), &[]);
    }
    narrow(result)
}
