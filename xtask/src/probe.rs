//! Whether this kernel does for us what labs and programs need: asked by doing it.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::sched::{CloneFlags, unshare};

/// `BPF_MAP_CREATE` and `BPF_MAP_TYPE_ARRAY` of linux/bpf.h.
const MAP_CREATE: libc::c_int = 0;
const MAP_TYPE_ARRAY: u32 = 2;

/// The beginning of `union bpf_attr` for `BPF_MAP_CREATE`; the kernel takes the rest for zeros.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// Makes a small map and lets it go.
pub(crate) fn bpf() -> io::Result<()> {
    let attributes = MapCreate {
        map_type: MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        map_flags: 0,
    };
    // SAFETY: the attributes live through the call, and the size is theirs.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_CREATE,
            &raw const attributes,
            size_of::<MapCreate>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the call has just given us this descriptor; nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// Has a thread enter a network namespace of its own, which ends with it.
pub(crate) fn netns() -> io::Result<()> {
    let thread = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET));
    match thread.join() {
        Ok(done) => done.map_err(io::Error::from),
        Err(_) => Err(io::Error::other("the thread panicked")),
    }
}
