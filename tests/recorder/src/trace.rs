//! Appending to the trace. Nothing here may call what `hooks` replaces.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::format::HEADER;

/// Copies that the store makes of itself to look at them: nobody keeps anything there.
const SCRATCH: &str = "examining";

struct Trace {
    dir: PathBuf,
    to: RawFd,
}

/// The trace; none where the process is not to be recorded.
fn trace() -> Option<&'static Trace> {
    static TRACE: OnceLock<Option<Trace>> = OnceLock::new();
    let open = || {
        let dir = PathBuf::from(std::env::var_os("TOTORO_RECORD_DIR")?);
        let to: OsString = std::env::var_os("TOTORO_RECORD_TO")?;
        let to = CString::new(to.into_vec()).ok()?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        // SAFETY: openat with a NUL-terminated path that lives across the call.
        let to =
            unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, to.as_ptr(), flags, 0o600) };
        let to = RawFd::try_from(to).ok().filter(|&to| to >= 0)?;
        Some(Trace { dir, to })
    };
    TRACE.get_or_init(open).as_ref()
}

/// The name of an open file below the recorded directory.
pub(crate) fn name_of(fd: RawFd) -> Option<PathBuf> {
    trace()?;
    let link = CString::new(format!("/proc/self/fd/{fd}")).ok()?;
    let mut path = vec![0; 4096];
    // SAFETY: readlinkat writes at most as many bytes as the buffer has, and the path is
    // NUL-terminated.
    let length = unsafe {
        libc::syscall(
            libc::SYS_readlinkat,
            libc::AT_FDCWD,
            link.as_ptr(),
            path.as_mut_ptr(),
            path.len(),
        )
    };
    path.truncate(usize::try_from(length).ok()?);
    below(Path::new(&OsString::from_vec(path)))
}

/// A path that the process named, relative to the recorded directory.
pub(crate) fn name_at(path: &CStr) -> Option<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    if path.is_absolute() {
        below(path)
    } else {
        below(&std::env::current_dir().ok()?.join(path))
    }
}

fn below(path: &Path) -> Option<PathBuf> {
    let name = path.strip_prefix(&trace()?.dir).ok()?;
    let scratch = name.components().any(|part| part.as_os_str() == SCRATCH);
    (!scratch).then(|| name.to_owned())
}

/// Appends a record. A trace that cannot be written would be a lie: it ends the process.
pub(crate) fn record(kind: u8, name: &Path, number: u64, data: &[u8]) {
    let Some(trace) = trace() else { return };
    let name = name.as_os_str().as_bytes();
    let (Ok(name_length), Ok(data_length)) = (u16::try_from(name.len()), u32::try_from(data.len()))
    else {
        std::process::abort();
    };
    let mut record = Vec::with_capacity(HEADER + name.len() + data.len());
    record.push(kind);
    record.extend(name_length.to_le_bytes());
    record.extend(data_length.to_le_bytes());
    record.extend(number.to_le_bytes());
    record.extend(name);
    record.extend(data);
    // SAFETY: write reads as many bytes as the buffer has.
    let written =
        unsafe { libc::syscall(libc::SYS_write, trace.to, record.as_ptr(), record.len()) };
    if usize::try_from(written) != Ok(record.len()) {
        std::process::abort();
    }
}
