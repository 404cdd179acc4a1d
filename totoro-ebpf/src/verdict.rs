//! The one exit of everything that is refused: it counts, and tells the daemon now and then.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns};
use totoro_ebpf::abi::{Addr, EVENT_REFUSED, Event, ReasonCount, ReasonKey};

use crate::maps::{EVENTS, REASONS, TICK};

/// What was refused, as far as the hook knows.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    /// The tenant; 0 = nobody's.
    pub(crate) tenant: u32,
    /// The lease; 0 where there is none.
    pub(crate) lease: u64,
    /// The other side.
    pub(crate) remote: Addr,
    /// The other side's port.
    pub(crate) remote_port: u16,
    /// The port on the node.
    pub(crate) port: u16,
    /// IP protocol number.
    pub(crate) proto: u8,
}

/// Now on the boot-time clock, ns.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes nothing and only reads a clock.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The same as of this CPU's last tick (1 to 10 ms ago at most): what a packet's way needs. To read the
/// clock takes longer than all else that is done for most packets, 40 ns where a hypervisor is below.
#[inline(always)]
pub(crate) fn lately() -> u64 {
    let Some(tick) = TICK.get_ptr_mut(0) else {
        return now();
    };
    // SAFETY: this CPU's own value; the helper only reads a counter. A program that comes in between two of
    // these lines reads the same tick, or the one before.
    unsafe {
        let jiffies = bpf_jiffies64();
        if (*tick).jiffies != jiffies {
            (*tick).boot_ns = now();
            (*tick).jiffies = jiffies;
        }
        (*tick).boot_ns
    }
}

/// Counts a refusal, and reports the 1st, 2nd, 4th, 8th, … of each tenant, reason and CPU, so
/// that a flood cannot drown the ring.
#[inline(never)]
pub(crate) fn refuse(reason: u32, subject: &Subject) {
    let key = ReasonKey {
        tenant: subject.tenant,
        reason,
    };
    let at_ns = lately();
    let count = match REASONS.get_ptr_mut(&key) {
        Some(count) => {
            // SAFETY: this CPU's own value, and BPF programs of one hook don't preempt each other
            // here; a lost increment by another hook's interrupt is the worst that can happen.
            unsafe {
                (*count).count += 1;
                (*count).last_ns = at_ns;
                (*count).count
            }
        }
        None => {
            let first = ReasonCount {
                count: 1,
                last_ns: at_ns,
            };
            // A full table loses the tenant's own row, never the refusal; nor is it told, since
            // every one of a flood would be the first.
            if REASONS.insert(&key, &first, 0).is_err() {
                return;
            }
            1
        }
    };
    if count & (count - 1) == 0 {
        report(|event| {
            event.at_ns = at_ns;
            event.lease = subject.lease;
            event.remote = subject.remote;
            event.remote_port = subject.remote_port;
            event.port = subject.port;
            event.kind = EVENT_REFUSED;
            event.reason = reason;
            event.tenant = subject.tenant;
            event.proto = subject.proto;
        });
    }
}

/// Sends an event, filled in place (it is too large for the stack of nested calls). A full ring
/// loses it: events are hints, the counters are the truth.
#[inline(always)]
pub(crate) fn report(fill: impl FnOnce(&mut Event)) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        return;
    };
    // SAFETY: reserved memory of the event's size and alignment; integers only, so zeros are a
    // value.
    unsafe {
        let at = entry.as_mut_ptr().cast::<u64>();
        let mut word = 0;
        while word < size_of::<Event>() / 8 {
            core::ptr::write_volatile(at.add(word), 0);
            word += 1;
        }
        fill(&mut *entry.as_mut_ptr());
    }
    entry.submit(0);
}
