//! Mending what the programs did not hear of. Attached nowhere: the daemon runs it, one order at a
//! time, because only a program can take a receipt and discharge it without a moment in between.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use totoro_ebpf::abi::{
    MEND_CONN, MEND_CONTROL, MEND_DONE, MEND_FLOW, MEND_NOTHING, MEND_OFFSET, MEND_SOURCE, Mend,
};

use super::charge::{discharge_key, forget_source};
use super::ending::{forget_control, settle};
use crate::maps::CONNS;
use crate::verdict::now;

/// Entry point; see [`totoro_ebpf::abi::Mend`].
#[classifier]
pub(crate) fn totoro_mend(ctx: TcContext) -> i32 {
    let done = ctx
        .load::<Mend>(MEND_OFFSET)
        .is_ok_and(|order| mend(&order));
    (if done { MEND_DONE } else { MEND_NOTHING }) as i32
}

#[inline(always)]
fn mend(order: &Mend) -> bool {
    match order.kind {
        MEND_CONN => conn(order.cookie),
        MEND_CONTROL => forget_control(&order.control, order.cookie, now()),
        MEND_SOURCE => forget_source(&order.source),
        MEND_FLOW => discharge_key(&order.source, now()),
        _ => false,
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
