//! The few system calls that no crate wraps: replacing the program of a pinned link (aya 0.14 can't
//! for sock_ops), reading what a link is attached to, maps whose layout is only known at run time,
//! and a network namespace's cookie.

#![expect(unsafe_code, reason = "bpf(2) and getsockopt(2) take raw structures")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
/// Since Linux 5.6 for hash tables, per-CPU ones too.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// Since Linux 5.6 for arrays.
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_GET_NEXT_ID: libc::c_long = 31;
/// `enum bpf_attach_type` (include/uapi/linux/bpf.h).
const BPF_SK_SKB_STREAM_VERDICT: u32 = 5;
/// `enum bpf_link_type` (include/uapi/linux/bpf.h).
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_XDP: u32 = 6;
/// `SO_NETNS_COOKIE`, since Linux 5.14 (include/uapi/asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Calls bpf(2) with `attr`, whose tail the kernel takes as zeros.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is the repr(C) structure of `command`, alive and sized for the whole call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// Opens a pinned object.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr {
        path: path.as_ptr() as u64,
        fd: 0,
        flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    // SAFETY: a descriptor that the kernel just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Has a link run another program; the link's id and place stay.
pub(super) fn update_link(link: impl AsFd, program: impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let mut attr = Attr {
        link: link.as_fd().as_raw_fd() as u32,
        program: program.as_fd().as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Has a stream verdict judge what comes to the sockets of a map, in place of the one before.
pub(super) fn attach_verdict(program: impl AsFd, map: impl AsFd) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        map: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let mut attr = Attr {
        map: map.as_fd().as_raw_fd() as u32,
        program: program.as_fd().as_raw_fd() as u32,
        kind: BPF_SK_SKB_STREAM_VERDICT,
        flags: 0,
    };
    bpf(BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Runs a program that is attached nowhere on a packet, which it may change; what it returns.
pub(super) fn run<T: aya::Pod>(program: impl AsFd, packet: &mut T) -> io::Result<u32> {
    /// All of it up to `batch_size`: the kernel writes to fields of it.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        program: u32,
        returned: u32,
        size_in: u32,
        size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        context: [u64; 3],
        flags: u32,
        cpu: u32,
        batch_size: u32,
        pad: u32,
    }
    let at = std::ptr::from_mut(packet) as u64;
    let mut attr = Attr {
        program: program.as_fd().as_raw_fd() as u32,
        size_in: size_of::<T>() as u32,
        size_out: size_of::<T>() as u32,
        data_in: at,
        data_out: at,
        ..Attr::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr.returned)
}

/// What the map commands take; `value` is the next key's place for one of them.
#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    fn new(map: impl AsFd, key: Option<&[u8]>, value: u64) -> Element {
        Element {
            map: map.as_fd().as_raw_fd() as u32,
            pad: 0,
            key: key.map_or(0, |key| key.as_ptr() as u64),
            value,
            flags: 0,
        }
    }
}

/// Whether what was looked for is there.
fn there(answer: io::Result<libc::c_long>) -> io::Result<bool> {
    match answer {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        other => other.map(|_| true),
    }
}

// The three below: keys and values have the map's own sizes, as the caller has looked up; it is no
// per-CPU map.

/// The key after `key` (`None` = the first), or false after the last.
pub(super) fn next_key(map: impl AsFd, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = Element::new(map, key, next.as_mut_ptr() as u64);
    there(bpf(BPF_MAP_GET_NEXT_KEY, &mut attr))
}

/// Reads a value; false when there is none.
pub(super) fn lookup(map: impl AsFd, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = Element::new(map, Some(key), value.as_mut_ptr() as u64);
    there(bpf(BPF_MAP_LOOKUP_ELEM, &mut attr))
}

/// Writes a value.
pub(super) fn update(map: impl AsFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = Element::new(map, Some(key), value.as_ptr() as u64);
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Makes all values of an array zeros; it has so many, of this size, and is no per-CPU one.
pub(super) fn zero(map: impl AsFd, value_size: usize, entries: u32) -> io::Result<()> {
    let all: Vec<u32> = (0..entries).collect();
    let values = vec![0_u8; value_size * AT_ONCE.min(all.len())];
    for keys in all.chunks(AT_ONCE) {
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: keys.len() as u32,
            map: map.as_fd().as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        bpf(BPF_MAP_UPDATE_BATCH, &mut attr)?;
    }
    Ok(())
}

/// Entries that are written at once: what a start takes of memory is there for long.
const AT_ONCE: usize = 4096;

/// What the batch commands take.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Where a reading in batches of a hash table stands: the next bucket.
pub(super) type Bucket = u32;

/// What one batch brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// So many entries, and more may follow from this bucket on.
    More(usize, Bucket),
    /// So many entries, and those were the last.
    Last(usize),
    /// The next bucket has more entries than there is room for.
    TooSmall,
}

/// Reads the entries of a hash table from a bucket on (`None` = the first) into the spare room of
/// `keys` and `values`, and as many as there is room for in both; `per_key` values belong to one key.
/// The lengths stay: the caller says with `set_len` how many it believes.
///
/// The types' sizes are the map's own, as the caller has looked up (of a per-CPU map the value's is a
/// multiple of 8, and `per_key` the number of possible CPUs): else the kernel writes past the room.
pub(super) fn lookup_batch<K, V>(
    map: impl AsFd,
    from: Option<Bucket>,
    keys: &mut Vec<K>,
    values: &mut Vec<V>,
    per_key: usize,
) -> io::Result<Batch> {
    let (keys, values) = (keys.spare_capacity_mut(), values.spare_capacity_mut());
    let room = keys.len().min(values.len() / per_key.max(1));
    let from = from.as_ref();
    let mut to: Bucket = 0;
    let mut attr = BatchAttr {
        from: from.map_or(0, |from| std::ptr::from_ref(from) as u64),
        to: &raw mut to as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(room).unwrap_or(u32::MAX),
        map: map.as_fd().as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    let answer = bpf(BPF_MAP_LOOKUP_BATCH, &mut attr);
    match answer.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => Ok(Batch::More(attr.count as usize, to)),
        Err((Some(libc::ENOENT), _)) => Ok(Batch::Last(attr.count as usize)),
        Err((Some(libc::ENOSPC), _)) => Ok(Batch::TooSmall),
        Err((_, error)) => Err(error),
    }
}

/// `struct bpf_link_info` as far as every kind of link has it, and the first words of the union.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkInfo {
    pub(super) kind: u32,
    pub(super) id: u32,
    pub(super) program: u32,
    pad: u32,
    /// cgroup links: the low half of the cgroup's id; netns: its inode; XDP and TCX: the ifindex.
    pub(super) target_low: u32,
    /// cgroup links: the high half of the cgroup's id; netns and TCX: the attach type.
    pub(super) target_high: u32,
    /// cgroup links: the attach type.
    pub(super) attach: u32,
    more: u32,
    rest: [u64; 7],
}

impl LinkInfo {
    /// What the link is attached to: a cgroup's id, a namespace's inode, an interface's index; 0
    /// when that is gone.
    pub(super) const fn target(&self) -> u64 {
        if self.kind == BPF_LINK_TYPE_CGROUP {
            self.target_low as u64 | (self.target_high as u64) << 32
        } else {
            self.target_low as u64
        }
    }

    /// How it is attached; XDP has no such thing.
    pub(super) const fn attach_type(&self) -> Option<u32> {
        match self.kind {
            BPF_LINK_TYPE_CGROUP => Some(self.attach),
            BPF_LINK_TYPE_XDP => None,
            _ => Some(self.target_high),
        }
    }
}

/// What a link is attached to.
pub(super) fn link_info(link: impl AsFd) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = LinkInfo::default();
    let mut attr = Attr {
        fd: link.as_fd().as_raw_fd() as u32,
        len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The id of the link that comes after this id, of whomever; `None` after the last.
pub(super) fn next_link(after: u32) -> io::Result<Option<u32>> {
    #[repr(C)]
    struct Attr {
        start: u32,
        next: u32,
        flags: u32,
    }
    let mut attr = Attr {
        start: after,
        next: 0,
        flags: 0,
    };
    match bpf(BPF_LINK_GET_NEXT_ID, &mut attr) {
        Ok(_) => Ok(Some(attr.next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a link by its id.
pub(super) fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next: u32,
        flags: u32,
    }
    let mut attr = Attr {
        id,
        next: 0,
        flags: 0,
    };
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &mut attr)?;
    // SAFETY: a descriptor that the kernel just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The cookie of the network namespace that this thread is in.
pub(super) fn netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: an open socket, and a buffer of the length that is said.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut len,
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}
