//! The one exit of everything that is refused: it counts, and tells the daemon now and then.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_boot_ns, bpf_ringbuf_query};
use totoro_ebpf::abi::{Addr, EVENT_REFUSED, Event, FlowKey, ReasonCount, ReasonKey};

use crate::atomic;
use crate::maps::{EVENTS, LOST, REASONS, TICK};

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

impl Subject {
    /// The flow that a datagram of this subject is of.
    #[inline(always)]
    pub(crate) fn flow(&self) -> FlowKey {
        FlowKey {
            remote: self.remote,
            remote_port: self.remote_port,
            port: self.port,
            pad: 0,
        }
    }
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

/// Nanoseconds of a tick of this kernel's; set at load. 0 = not known.
#[unsafe(no_mangle)]
static TICK_NS: Global<u64> = Global::new(0);

/// Ticks that are counted before the clock is read again.
const TICKS_COUNTED: u64 = 128;

/// The same for budgets of rates, which need no better: ticks that went by since the clock was last read are
/// counted, so that hardly any packet is the one that reads it. Off by less than a tick, or by as long as a host
/// kept this machine's ticks back; after the machine was suspended, for at most [`TICKS_COUNTED`], behind by as
/// long as it was.
#[inline(always)]
pub(crate) fn roughly() -> u64 {
    let tick_ns = TICK_NS.load();
    let Some(tick) = TICK.get(0).filter(|_| tick_ns != 0) else {
        return lately();
    };
    // SAFETY: the helper only reads a counter.
    let ticks = unsafe { bpf_jiffies64() }.wrapping_sub(tick.jiffies);
    if ticks < TICKS_COUNTED {
        tick.boot_ns + ticks * tick_ns
    } else {
        lately()
    }
}

/// Counts a refusal, and tells of it where it is one to be told of.
#[inline(never)]
pub(crate) fn refuse(reason: u32, subject: &Subject) {
    if let Some(at_ns) = count(subject.tenant, reason) {
        tell(reason, subject, at_ns);
    }
}

/// Counts a refusal; the moment, where it is to be told of: the 1st, 2nd, 4th, 8th, … of each tenant,
/// reason and CPU, so that a flood cannot drown the ring.
#[inline(always)]
pub(crate) fn count(tenant: u32, reason: u32) -> Option<u64> {
    let key = ReasonKey { tenant, reason };
    let at_ns = lately();
    let Some(row) = REASONS.get_ptr_mut(&key) else {
        let first = ReasonCount {
            count: 1,
            last_ns: at_ns,
        };
        // A full table loses the tenant's own row, never the refusal; nor is it told, since
        // every one of a flood would be the first.
        return REASONS.insert(&key, &first, 0).is_ok().then_some(at_ns);
    };
    // SAFETY: this CPU's own value, and BPF programs of one hook don't preempt each other
    // here; a lost increment by another hook's interrupt is the worst that can happen.
    let count = unsafe {
        (*row).last_ns = at_ns;
        (*row).count += 1;
        (*row).count
    };
    (count & (count - 1) == 0).then_some(at_ns)
}

/// Tells the daemon of a refusal.
#[inline(never)]
pub(crate) fn tell(reason: u32, subject: &Subject, at_ns: u64) {
    report(Told::Later, |event| {
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

/// When the daemon is woken for an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// At once: it must act. Forced, because the kernel by itself wakes who has read everything else only.
    Now,
    /// When it looks by itself, each second, or the ring fills up: to be woken costs a connection more than
    /// all else that is done for it (an interrupt of this processor to itself, which a hypervisor makes).
    Later,
}

/// Bytes in the ring from which on the daemon is woken in any case: a quarter of it.
const MANY: u64 = 128 * 1024;

/// Counts an event that the ring had no room for.
#[inline(never)]
fn lose() {
    if let Some(lost) = LOST.get_ptr_mut(0) {
        // SAFETY: an aligned u64 of a map value. Atomic, since a program of an interrupt may come in between.
        unsafe { atomic::add(lost, 1) };
    }
}

/// Sends an event, filled in place (it is too large for the stack of nested calls). A full ring
/// loses it, and that is counted: events are hints, the counters are the truth.
#[inline(always)]
pub(crate) fn report(told: Told, fill: impl FnOnce(&mut Event)) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        lose();
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
    // SAFETY: the helper reads positions of the ring.
    let waiting = || unsafe {
        bpf_ringbuf_query(
            (&raw const EVENTS).cast_mut().cast(),
            BPF_RB_AVAIL_DATA.into(),
        )
    };
    let wakes = told == Told::Now || waiting() > MANY;
    entry.submit(
        if wakes {
            BPF_RB_FORCE_WAKEUP
        } else {
            BPF_RB_NO_WAKEUP
        }
        .into(),
    );
}
