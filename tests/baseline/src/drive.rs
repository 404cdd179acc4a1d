//! The driver: each run is another packet, from another source to another port, and goes on in the
//! program that is measured. So not only one entry of its maps is ever in the processor's caches.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use totoro_baseline::{COUNT, FIRST, PLACES, SHORTEST, SOURCE, SOURCES, STATE};

#[btf_map]
static DRIVE: Array<u64, PLACES> = Array::new();

/// The program that is measured.
#[btf_map]
static TARGET: ProgramArray<1> = ProgramArray::new();

/// Entry point. Aborts where there is no target.
#[xdp]
pub(crate) fn drive(ctx: XdpContext) -> u32 {
    if change(&ctx).is_some() {
        // SAFETY: the program's context; nothing here needs to be dropped.
        unsafe { TARGET.tail_call(&ctx, 0) };
    }
    XDP_ABORTED
}

#[inline(always)]
fn change(ctx: &XdpContext) -> Option<()> {
    let (first, count) = (*DRIVE.get(FIRST)?, *DRIVE.get(COUNT)?);
    let sources = *DRIVE.get(SOURCES)?;
    let state = DRIVE.get_ptr_mut(STATE)?;
    // SAFETY: an aligned u64 of a live map value.
    let at = unsafe { core::ptr::read_volatile(state) };
    let chance = mix(at);
    let port = first + (((chance >> 32) * count) >> 32);
    let source = SOURCE as u64 + 2 * (((chance & 0xffff_ffff) * sources) >> 32);
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + SHORTEST > end {
        return None;
    }
    // SAFETY: within the bounds that were just compared with the packet's end.
    unsafe {
        *((start + 26) as *mut [u8; 4]) = (source as u32).to_be_bytes();
        *((start + 36) as *mut [u8; 2]) = (port as u16).to_be_bytes();
        // A locked instruction: what was written is out of the store buffer before the target reads it,
        // as it is when a card has written it.
        atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(state, 1);
    }
    Some(())
}

/// The finalizer of splitmix64.
#[inline(always)]
fn mix(at: u64) -> u64 {
    let mut x = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
