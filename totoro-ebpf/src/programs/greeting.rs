//! The request of frpc's websocket. Where frps tells the plugin the address of any other client,
//! it tells the origin that this one named: the filter writes the connection's own stamp over it,
//! so that the Login that follows is tied to its socket. A request that the filter does not see
//! whole goes without a stamp, and its Login is refused.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_csum_diff, bpf_loop};
use totoro_api::Reason;
use totoro_ebpf::abi::{Addr, ControlKey, TCP, v4_mapped};
use totoro_ebpf::logic::stamp;
use totoro_ebpf::packet::greeting::{self, LONGEST, Mark};
use totoro_ebpf::packet::{Family, Headers, Packet};

use super::{config, is_control};
use crate::maps::{CONTROL, LOCALS};
use crate::verdict::{Subject, now, refuse};

/// How old a connection may be when it greets. Nothing of an older one is touched.
const GREETS_WITHIN_NS: u64 = 10_000_000_000;
/// How many of its packets may begin as a greeting: one, and what TCP sends again. Each is searched
/// through, so whoever goes on is let through unsearched.
const LOOKS: u16 = 8;
/// Where a TCP header has its checksum.
const CHECKSUM: usize = 16;
/// What is replaced at once: a stamp at an odd offset, in words of the checksum's helper.
const SPAN: usize = 5;
const _: () = assert!(SPAN * 4 > stamp::LEN);
const _: () = assert!(greeting::VALUE == stamp::LEN);

/// A piece of a packet, in words of its bytes' order.
pub(crate) type Piece = [u32; SPAN];

/// A packet that can be changed.
pub(crate) trait Wire: Packet {
    /// Writes `new` at `at`, and takes `diff`, a difference of checksums, into the one at `sum`.
    fn replace(&self, at: usize, new: &Piece, sum: usize, diff: i64) -> Option<()>;
}

/// Stamps the packet where it is a websocket's request to frps; whether it may pass.
#[inline(always)]
pub(super) fn passes(packet: &impl Wire, headers: &Headers) -> bool {
    let Some(config) = config() else { return true };
    if !is_control(config, TCP, headers.destination_port)
        || !greeting::begins(packet, headers.data)
        // Behind extension headers nobody greets; to follow them would cost the verifier more than
        // all the rest.
        || headers.family == Family::V6 && headers.transport != headers.network + 40
    {
        return true;
    }
    // One after the other, not one in the other: frames of calls add up, to 512 bytes at most.
    let cookie = bearer(packet, headers);
    if cookie == NOT_YET {
        return early(packet, headers);
    }
    if cookie != NOBODYS {
        let nth = origin(packet, headers.data);
        if nth < LONGEST {
            write(packet, headers, nth, stamp_of(cookie, config.sketch_seed));
        }
    }
    true
}

/// No cookie is so large: nothing is to be written.
const NOBODYS: u64 = u64::MAX;
/// The connection is not there yet.
const NOT_YET: u64 = u64::MAX - 1;

/// The cookie of the packet's connection.
#[inline(never)]
fn bearer(packet: &impl Wire, headers: &Headers) -> u64 {
    let (mut remote, mut local) = ([0; 16], [0; 16]);
    if !address(packet, headers, Side::Source, &mut remote)
        || !address(packet, headers, Side::Destination, &mut local)
    {
        return NOBODYS;
    }
    // What is forwarded is not ours to change.
    // SAFETY: a lookup whose value is not used.
    if unsafe { LOCALS.get(&local) }.is_none() {
        return NOBODYS;
    }
    let key = ControlKey {
        remote,
        remote_port: headers.source_port,
        pad: [0; 3],
    };
    let Some(control) = CONTROL.get_ptr_mut(&key) else {
        return NOT_YET;
    };
    // SAFETY: aligned fields of a live map value. Two CPUs that count at once count one look less.
    unsafe {
        if (*control).looks >= LOOKS || (*control).opened_ns + GREETS_WITHIN_NS <= now() {
            return NOBODYS;
        }
        (*control).looks += 1;
        (*control).cookie
    }
}

/// Which address of a packet.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Reads an address; a call of its own, which the stack has room for.
#[inline(never)]
fn address(packet: &impl Wire, headers: &Headers, side: Side, to: &mut Addr) -> bool {
    let read = match (headers.family, side) {
        (Family::V4, Side::Source) => packet.read(headers.network + 12).map(v4_mapped),
        (Family::V4, Side::Destination) => packet.read(headers.network + 16).map(v4_mapped),
        (Family::V6, Side::Source) => packet.read(headers.network + 8),
        (Family::V6, Side::Destination) => packet.read(headers.network + 24),
    };
    match read {
        Some(read) => {
            *to = read;
            true
        }
        None => false,
    }
}

/// The handshake is in the same batch, and the stack has not seen it yet: TCP sends this again, a
/// moment later. Let through, it would be refused for good. Where the request rides on the handshake's
/// last ACK, that is dropped with it: the connection is there once the stack has sent its SYN-ACK
/// again and a bare ACK has answered that, and the request, sent again, comes after.
#[inline(never)]
fn early(packet: &impl Wire, headers: &Headers) -> bool {
    let mut remote = [0; 16];
    if address(packet, headers, Side::Source, &mut remote) {
        let subject = Subject {
            tenant: 0,
            lease: 0,
            remote,
            remote_port: headers.source_port,
            port: headers.destination_port,
            proto: TCP,
        };
        refuse(Reason::Unsupported.number(), &subject);
    }
    false
}

#[inline(never)]
fn stamp_of(cookie: u64, seed: u64) -> u64 {
    stamp::of(cookie, seed)
}

/// A search for a request's origin.
struct Search<'a, W> {
    packet: &'a W,
    data: usize,
    found: usize,
}

/// At which byte the origin is marked, [`LONGEST`] when at none. By the kernel's own loop: a loop of
/// ours would be verified once for each byte, with all that follows.
#[inline(never)]
fn origin<W: Wire>(packet: &W, data: usize) -> usize {
    let mut search = Search {
        packet,
        data,
        found: LONGEST,
    };
    let look: extern "C" fn(u32, &mut Search<'_, W>) -> i64 = look;
    // SAFETY: a callback of the helper's kind, with the context that it expects.
    unsafe {
        bpf_loop(
            LONGEST as u32,
            look as *mut c_void,
            (&raw mut search).cast(),
            0,
        )
    };
    search.found
}

/// Looks at one byte; 1 = enough.
extern "C" fn look<W: Wire>(nth: u32, search: &mut Search<'_, W>) -> i64 {
    let nth = nth as usize;
    if nth >= LONGEST {
        return 1;
    }
    match greeting::mark(search.packet, search.data, nth) {
        Mark::Other => 0,
        Mark::End => 1,
        Mark::Origin => {
            search.found = nth;
            1
        }
    }
}

/// Writes the stamp over the beginning of the origin marked at byte `nth`.
#[inline(never)]
fn write(packet: &impl Wire, headers: &Headers, nth: usize, stamp: u64) -> bool {
    replaced(packet, headers, nth, stamp).is_some()
}

#[inline(always)]
fn replaced(packet: &impl Wire, headers: &Headers, nth: usize, stamp: u64) -> Option<()> {
    let at = greeting::value(packet, headers.data, nth)?;
    // From where a word of the checksum begins.
    let odd = (at - headers.transport) & 1;
    let from = at - odd;
    let mut old: Piece = [0; SPAN];
    for (nth, word) in old.iter_mut().enumerate() {
        *word = u32::from_le_bytes(packet.read(from + 4 * nth)?);
    }
    let (first, second) = stamp::words(stamp);
    let shift = 8 * odd as u32;
    // What the last word keeps: all of it, or its upper three bytes.
    let (head, tail) = (first << shift, second << shift);
    let kept = (1 << shift) - 1;
    let carried = |word: u64| (word >> 32 >> (32 - shift)) as u32;
    let mut new: Piece = [
        head as u32 | old[0] & kept,
        (head >> 32) as u32,
        tail as u32 | carried(first),
        (tail >> 32) as u32,
        old[4] & !kept | carried(second),
    ];
    let size = size_of::<Piece>() as u32;
    // SAFETY: two pieces of that size on the stack.
    let diff = unsafe { bpf_csum_diff(old.as_mut_ptr(), size, new.as_mut_ptr(), size, 0) };
    packet.replace(from, &new, headers.transport + CHECKSUM, diff)
}
