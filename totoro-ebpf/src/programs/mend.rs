//! Mending what the programs did not hear of. Attached nowhere: the daemon runs it, one order at a
//! time, because only a program can take a receipt and discharge it without a moment in between.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use totoro_ebpf::abi::{
    MEND_CONN, MEND_CONNS_BY, MEND_CONTROL, MEND_DONE, MEND_FLOW, MEND_FLOWS_BY, MEND_IDLE,
    MEND_NOTHING, MEND_OFFSET, MEND_SOURCE_BY, Mend,
};

use super::ending::{forget_control, settle};
use super::{flows, idle};
use crate::atomic;
use crate::maps::{CONNS, FLOWS_CLOSED, SOURCES, USAGE};
use crate::verdict::now;

/// Entry point; see [`totoro_ebpf::abi::Mend`].
#[classifier]
pub(crate) fn totoro_mend(ctx: TcContext) -> i32 {
    let Ok(order) = ctx.load::<Mend>(MEND_OFFSET) else {
        return MEND_NOTHING as i32;
    };
    if order.kind == MEND_IDLE {
        return idle::end(now(), order.spared) as i32;
    }
    (if mend(&order) {
        MEND_DONE
    } else {
        MEND_NOTHING
    }) as i32
}

#[inline(always)]
fn mend(order: &Mend) -> bool {
    match order.kind {
        MEND_CONN => conn(order.cookie),
        MEND_CONTROL => forget_control(&order.control, order.cookie, now()),
        MEND_FLOW => flows::end(&order.flow, now()),
        // SAFETY: aligned u64s of live map values.
        MEND_CONNS_BY => USAGE
            .get_ptr_mut(&order.tenant)
            .is_some_and(|usage| unsafe { adjust(&raw mut (*usage).conns, order.by) }),
        MEND_FLOWS_BY => FLOWS_CLOSED
            .get_ptr_mut(&order.tenant)
            .is_some_and(|closed| unsafe { adjust(closed, order.by.wrapping_neg()) }),
        MEND_SOURCE_BY => SOURCES
            .get_ptr_mut(&order.source)
            .is_some_and(|source| unsafe { adjust(&raw mut (*source).conns, order.by) }),
        _ => false,
    }
}

/// Adds, unless there is not enough to take away; what is counted meanwhile is counted too. A count that went below
/// zero is a huge one, to which so much is added that it comes round.
///
/// # Safety
/// `at` points to an aligned `u64` of a map value that the verifier knows.
#[inline(always)]
unsafe fn adjust(at: *mut u64, by: i64) -> bool {
    // SAFETY: the caller's.
    unsafe {
        atomic::update(at, |n| {
            let sum = n.wrapping_add_signed(by);
            (sum < 1 << 63).then_some(sum)
        })
    }
}

#[inline(always)]
fn conn(cookie: u64) -> bool {
    // A surplus connection was charged nothing, but its entry goes too.
    // SAFETY: a lookup whose value is not used.
    let known = unsafe { CONNS.get(&cookie) }.is_some();
    settle(cookie, now());
    known
}
