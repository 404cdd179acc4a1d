//! `BPF_PROG_TEST_RUN` as bpf(2) takes it: aya runs no socket lookups, and looks its programs up by
//! name; and an event out of the ring.

#![expect(unsafe_code, reason = "bpf(2) takes raw structures")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use totoro_ebpf::abi::Event;

const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// What the kernel answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// What the program returned, the last time.
    pub(super) returned: u32,
    /// How many bytes the packet has then.
    pub(super) length: usize,
    /// How long one run took, ns.
    pub(super) took_ns: u32,
}

/// `struct { … } test` of `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attr {
    program: u32,
    returned: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs a program `repeat` times with a packet, which is copied back to `out`, or (no packet) with a
/// context.
pub(super) fn test_run(
    program: impl AsFd,
    packet: Option<(&[u8], &mut [u8])>,
    context: Option<&[u8]>,
    repeat: u32,
) -> io::Result<Answer> {
    let mut attr = Attr {
        program: program.as_fd().as_raw_fd() as u32,
        repeat,
        ..Attr::default()
    };
    if let Some((data, out)) = packet {
        attr.data_in = data.as_ptr() as u64;
        attr.data_size_in = data.len() as u32;
        attr.data_out = out.as_mut_ptr() as u64;
        attr.data_size_out = out.len() as u32;
    }
    if let Some(context) = context {
        attr.context_in = context.as_ptr() as u64;
        attr.context_size_in = context.len() as u32;
    }
    // SAFETY: the structure of the command, sized for the whole call; its buffers are the caller's
    // slices, alive until it returns, and no longer than it is told.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attr,
            size_of::<Attr>(),
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Answer {
        returned: attr.returned,
        length: attr.data_size_out as usize,
        took_ns: attr.duration,
    })
}

/// An event of the ring.
pub(super) fn event(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    // SAFETY: as many bytes as it has, and integers only, of which every bit pattern is a value.
    Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() })
}
