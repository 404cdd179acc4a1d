//! Failing on demand: while the file `TOTORO_RECORD_FAIL` is there, the calls that it names fail with
//! EIO, as they do when a disk breaks. Its text is `CALL NAME` or `CALL NAME BUT`: CALL is `write` or
//! `sync`, NAME a file or directory below the recorded one, BUT one below that which still works.

use std::ffi::{CString, c_int};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Which calls there are.
pub(crate) const WRITE: &str = "write";
pub(crate) const SYNC: &str = "sync";

/// Whether this call on a file is to fail; its name is looked for only where it counts.
pub(crate) fn fails(call: &str, name: impl FnOnce() -> Option<PathBuf>) -> bool {
    let Some(rule) = rule() else { return false };
    let Some(name) = name() else { return false };
    let mut words = rule.split_ascii_whitespace();
    let named = words.next() == Some(call) && words.next().is_some_and(|of| name.starts_with(of));
    named && !words.next().is_some_and(|but| name.starts_with(but))
}

/// Sets what the caller finds in `errno`.
pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: the thread's own errno is always writable.
    unsafe { *libc::__errno_location() = errno }
}

/// The file's text; nothing where there is none. By system calls alone: `hooks` replaces the rest.
fn rule() -> Option<String> {
    static PATH: OnceLock<Option<CString>> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let path = std::env::var_os("TOTORO_RECORD_FAIL")?;
        CString::new(path.into_vec()).ok()
    });
    let path = path.as_ref()?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: openat with a NUL-terminated path that lives across the call.
    let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 {
        return None;
    }
    let mut text = vec![0_u8; 256];
    // SAFETY: read writes at most as many bytes as the buffer has.
    let length = unsafe { libc::syscall(libc::SYS_read, fd, text.as_mut_ptr(), text.len()) };
    // SAFETY: no memory arguments; the descriptor is ours.
    unsafe { libc::syscall(libc::SYS_close, fd) };
    text.truncate(usize::try_from(length).ok()?);
    String::from_utf8(text).ok()
}
