//! UDP flows: who wrote first, who was answered, how many there are.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use totoro_api::Reason;
use totoro_ebpf::abi::{
    Addr, FLOW_ANSWERED, FLOW_CONFIRMED, FLOW_NEW, FLOW_RECYCLED, Flow, FlowKey, SOURCE_FLOWS,
    Tenant,
};
use totoro_ebpf::logic::admit::{coarse, keeps, unconfirmed_budget};
use totoro_ebpf::logic::prefix;

use super::charge::{BPF_NOEXIST, charge_source, discharge_source, undo_source};
use super::{LAST, NEXT, known, recycle, waiting};
use crate::atomic;
use crate::maps::{CANDIDATES, FLOWS, FLOWS_CLOSED, LOCALS, TENANTS, USAGE};
use crate::verdict::Subject;

/// How often a flow is charged: again, when it took another's place.
const TRIES: u32 = 2;

/// What [`promote`] says when another CPU was first.
const ANSWERED_ELSEWHERE: u32 = u32::MAX;

/// A datagram from a user of a known flow; false when the flow is not known.
#[inline(always)]
pub(crate) fn received(key: &FlowKey, bytes: u64, at: u64) -> bool {
    if let Some(flow) = FLOWS.get_ptr_mut(key) {
        // SAFETY: aligned fields of a live map value; the state moves one way only.
        unsafe {
            atomic::add(&raw mut (*flow).bytes_in, bytes);
            (*flow).last_ns = at;
            (*flow).heard = coarse(at);
            (*flow).state = FLOW_CONFIRMED;
        }
        return true;
    }
    if let Some(flow) = CANDIDATES.get_ptr_mut(key) {
        // SAFETY: as above.
        unsafe {
            atomic::add(&raw mut (*flow).bytes_in, bytes);
            (*flow).last_ns = at;
            (*flow).heard = waiting::AGAIN;
            note(&(*flow).tenant, at);
        }
        known::hear(key, at);
        return true;
    }
    false
}

/// The first datagram of a flow of the subject's tenant and lease, which the lease's record may be no more: it may
/// have become another port's since it was read.
#[inline(always)]
pub(crate) fn begin(key: &FlowKey, subject: &Subject, bytes: u64, at: u64) {
    let flow = Flow {
        tenant: subject.tenant,
        state: FLOW_NEW,
        lease: subject.lease,
        opened_ns: at,
        last_ns: at,
        bytes_in: bytes,
        parent: waiting::note(key, subject.tenant),
        ..Flow::default()
    };
    // Recycles the oldest when full: see CANDIDATES.
    let _ = CANDIDATES.insert(key, &flow, BPF_NOEXIST);
    note(&subject.tenant, at);
    known::hear(key, at);
}

/// Notes that something passed a tenant's ports which no count tells of.
#[inline(always)]
fn note(tenant: &u32, at: u64) {
    if let Some(usage) = USAGE.get_ptr_mut(tenant) {
        // SAFETY: an aligned u64 of a live map value.
        unsafe { (*usage).last_ns = at };
    }
}

/// Whether a user at `key` has written: the reason to refuse sending to it, or 0. Addresses that no
/// user has are never written to, nor the node's own: a forged datagram to a service of the node's
/// could have made that service write to the port first. The loopback can't be forged from outside.
#[inline(always)]
pub(crate) fn may_send(key: &FlowKey) -> u32 {
    // SAFETY: lookups whose values are not used.
    let known = unsafe { FLOWS.get(key).is_some() || CANDIDATES.get(key).is_some() };
    if known && (prefix::is_loopback(&key.remote) || !is_forged(&key.remote)) {
        0
    } else {
        Reason::ReplyOnly.number()
    }
}

/// Whether a source that is not on the loopback interface must be forged: no user's address, or one
/// of the node's own.
#[inline(always)]
pub(crate) fn is_forged(remote: &Addr) -> bool {
    // SAFETY: a lookup whose value is not used.
    prefix::never_a_user(remote) || unsafe { LOCALS.get(remote) }.is_some()
}

/// A datagram to a user: the reason to drop it, or 0. The first answer makes the flow count.
#[inline(always)]
pub(crate) fn sent(key: &FlowKey, subject: &Subject, tenant: &Tenant, bytes: u64, at: u64) -> u32 {
    if FLOWS.get_ptr_mut(key).is_none() {
        let reason = answer(key, subject, tenant, at);
        if reason != 0 {
            return reason;
        }
    }
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        return Reason::ReplyOnly.number();
    };
    // SAFETY: aligned fields of a live map value.
    unsafe {
        let out = atomic::load(&raw const (*flow).bytes_out) + bytes;
        let state = (*flow).state;
        let bytes_in = atomic::load(&raw const (*flow).bytes_in);
        if state != FLOW_CONFIRMED && out > unconfirmed_budget(state, bytes_in) {
            return Reason::ReplyOnly.number();
        }
        atomic::add(&raw mut (*flow).bytes_out, bytes);
        if keeps(state, (*flow).heard, at) {
            (*flow).last_ns = at;
        }
    }
    0
}

/// The first answer to a candidate: the reason not to, or 0. Who comes when its source, the tenant or the tenant's
/// parent has no more takes the place of a flow that is not confirmed: of its own source, where that has its share.
#[inline(always)]
fn answer(key: &FlowKey, subject: &Subject, tenant: &Tenant, at: u64) -> u32 {
    // SAFETY: a lookup whose value is not used.
    if unsafe { CANDIDATES.get(key) }.is_none() {
        return Reason::ReplyOnly.number();
    }
    let mut charge = Charge {
        key: *key,
        tenant: subject.tenant,
        parent: tenant.parent,
        at,
        reason: 0,
        state: FLOW_ANSWERED,
    };
    // SAFETY: a callback that uses `charge` while this runs. Written out, the verifier would walk all that comes after a
    // first try for each way that it may end.
    unsafe {
        bpf_loop(
            TRIES,
            try_charge as *mut c_void,
            (&raw mut charge).cast(),
            0,
        );
    }
    if charge.reason != 0 {
        return charge.reason;
    }
    let reason = promote(key, subject, charge.parent, charge.state);
    if reason == 0 {
        recycle::note(key, subject.tenant);
        return 0;
    }
    undo(key, subject.tenant, charge.parent, at);
    if reason == ANSWERED_ELSEWHERE {
        0
    } else {
        reason
    }
}

/// A flow that is to be charged.
struct Charge {
    key: FlowKey,
    tenant: u32,
    parent: u32,
    at: u64,
    /// Why it is not, or 0.
    reason: u32,
    /// What it begins as.
    state: u32,
}

/// # Safety
/// Called by the kernel, with the charge that [`answer`] told.
unsafe extern "C" fn try_charge(nth: u32, charge: *mut Charge) -> i64 {
    // SAFETY: what `answer` told, alive while this runs.
    let it = unsafe { &mut *charge };
    it.reason = self::charge(&it.key, it.tenant, it.parent, it.at);
    let full = recycle::full_of(it.reason);
    if nth != 0 || full == recycle::NONE {
        return LAST;
    }
    if !recycle::make_room(&it.key, it.tenant, full, it.at) {
        return LAST;
    }
    it.state = FLOW_RECYCLED;
    NEXT
}

/// Makes a candidate, whose charges are paid, a flow: the reason not to, or 0, or
/// [`ANSWERED_ELSEWHERE`].
#[inline(never)]
fn promote(key: &FlowKey, subject: &Subject, parent: u32, state: u32) -> u32 {
    // The flow is built in one place, before anything else: a copy of the candidate beside it would
    // pass the 512 bytes of stack.
    let mut flow = Flow {
        tenant: subject.tenant,
        lease: subject.lease,
        state,
        parent,
        ..Flow::default()
    };
    // SAFETY: each field is read once.
    let Some(candidate) = (unsafe { CANDIDATES.get(key) }) else {
        return Reason::ReplyOnly.number();
    };
    flow.opened_ns = candidate.opened_ns;
    flow.last_ns = candidate.last_ns;
    flow.bytes_in = candidate.bytes_in;
    if FLOWS.insert(key, &flow, BPF_NOEXIST).is_err() {
        // Another CPU was first, or the table is full.
        // SAFETY: a lookup whose value is not used.
        return if unsafe { FLOWS.get(key) }.is_none() {
            Reason::NodeFull.number()
        } else {
            ANSWERED_ELSEWHERE
        };
    }
    let _ = CANDIDATES.remove(key);
    0
}

/// Ends a flow and takes its charges back; whether it was there. The entry is the receipt: whoever
/// removes it discharges, once.
#[inline(always)]
pub(super) fn end(key: &FlowKey, at: u64) -> bool {
    // SAFETY: copied at once.
    let payers = unsafe { FLOWS.get(key) }.map(|flow| (flow.tenant, flow.parent));
    let Some((tenant, parent)) = payers else {
        return false;
    };
    if FLOWS.remove(key).is_err() {
        return false;
    }
    known::forget(key);
    close(tenant);
    if parent != 0 {
        close(parent);
    }
    discharge_source(&key.remote, tenant, SOURCE_FLOWS, at);
    true
}

/// Charges a flow to its source, its tenant and the tenant's parent (0 = none): the reason not to, or 0. Nothing stays
/// charged then. Its source first: who has its share takes nobody's place but its own.
#[inline(never)]
fn charge(key: &FlowKey, tenant: u32, parent: u32, at: u64) -> u32 {
    // SAFETY: the value is read while the program runs.
    let Some(policy) = (unsafe { TENANTS.get(&tenant) }) else {
        return Reason::InviteUnknown.number();
    };
    let (max, per_source) = (policy.max_flows, policy.max_conns_per_source);
    let mut reason = charge_source(&key.remote, tenant, SOURCE_FLOWS, per_source, at);
    if reason != 0 {
        return reason;
    }
    reason = charge_payers(tenant, max, parent, at);
    if reason != 0 {
        // With its entry: who is over a limit leaves none.
        undo_source(&key.remote, tenant, SOURCE_FLOWS, at);
    }
    reason
}

/// Takes back a flow that was charged and did not come to be.
#[inline(never)]
fn undo(key: &FlowKey, tenant: u32, parent: u32, at: u64) {
    give_back(tenant);
    if parent != 0 {
        give_back(parent);
    }
    undo_source(&key.remote, tenant, SOURCE_FLOWS, at);
}

#[inline(always)]
fn charge_payers(tenant: u32, max_flows: u32, parent: u32, at: u64) -> u32 {
    if !pay(tenant, max_flows, at) {
        return Reason::MaxFlows.number();
    }
    if parent == 0 {
        return 0;
    }
    // SAFETY: the value is read once.
    let max = unsafe { TENANTS.get(&parent) }.map_or(u32::MAX, |tenant| tenant.max_flows);
    if !pay(parent, max, at) {
        give_back(tenant);
        return Reason::PublicFull.number();
    }
    0
}

#[inline(always)]
fn pay(tenant: u32, max: u32, at: u64) -> bool {
    let Some(usage) = USAGE.get_ptr_mut(&tenant) else {
        return false;
    };
    // SAFETY: the value is copied at once.
    let closed = unsafe { FLOWS_CLOSED.get(&tenant) }.copied().unwrap_or(0);
    // SAFETY: aligned u64s of a live map value.
    unsafe {
        (*usage).last_ns = at;
        atomic::update(&raw mut (*usage).flows_opened, |opened| {
            (opened.saturating_sub(closed) < max as u64).then_some(opened + 1)
        })
    }
}

#[inline(always)]
fn give_back(tenant: u32) {
    if let Some(usage) = USAGE.get_ptr_mut(&tenant) {
        // SAFETY: an aligned u64 of a live map value, charged just before.
        unsafe { atomic::sub(&raw mut (*usage).flows_opened, 1) };
    }
}

/// Counts a flow as ended.
#[inline(always)]
fn close(tenant: u32) {
    if let Some(closed) = FLOWS_CLOSED.get_ptr_mut(&tenant) {
        // SAFETY: an aligned u64 of a live map value.
        unsafe { atomic::add(closed, 1) };
    }
}
