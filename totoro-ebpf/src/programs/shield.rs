//! The shield's verdict, the same in XDP and TC ingress: drops what opens a flow to a pool port
//! without a lease, and floods. Whatever it lets through, the socket lookup judges again.

use totoro_api::Reason;
use totoro_ebpf::abi::{Addr, Config, FLOW_CONFIRMED, FlowKey, OutboundKey, PortKey, TCP, UDP};
use totoro_ebpf::logic::banned::{self, Asks};
use totoro_ebpf::logic::{admit::is_over, bucket, near, pool, prefix};
use totoro_ebpf::packet::{self, Headers, Packet, Sides, Target, Words, words};

use aya_ebpf::btf_maps::lpm_trie::Key;

use super::greeting::{self, Wire};
use super::{config, is_answer, is_bind_port, is_control, is_guarded, known};
use crate::atomic;
use crate::maps::{
    BANNED, BANS, CANDIDATES, FLOWS, GATES, LOCALS, NEAR, PORT_USAGE, PORTS, SINGLES, SKETCH,
    SKETCH_CELLS, SYN_TATS,
};
use crate::verdict::{Subject, count, lately, roughly, tell};

/// Whether a packet may pass.
#[inline(always)]
pub(crate) fn passes(packet: &impl Wire) -> bool {
    let Some(target) = Target::from_ethernet(packet) else {
        return true;
    };
    is_nothing(packet, &target, true) || judge(packet, &target)
}

/// The same where each look into the packet is a call, which costs more than to judge: `near` is as much of its
/// beginning as can be read without one, and lets nearly every packet go.
#[inline(always)]
pub(crate) fn passes_by(near: &impl Packet, packet: &impl Wire) -> bool {
    let passes_already = Target::from_ethernet(near).is_some_and(|target| {
        is_nothing(near, &target, false) || goes_on(near, packet, &target) == Some(true)
    });
    // Else from the beginning: what `near` told is no state that the verifier has to follow further.
    passes_already || passes(packet)
}

/// Whether a segment of frps's own connections is no websocket's greeting; `None` where that can't be told.
#[inline(always)]
fn goes_on(near: &impl Packet, packet: &impl Packet, target: &Target) -> Option<bool> {
    if target.proto != TCP {
        return None;
    }
    let headers = target.headers(near)?;
    // The data is seldom where the headers are.
    Some(!headers.is_tcp_open() && !packet::greeting::begins(packet, headers.data))
}

/// Whether a packet passes by what it goes to. Where `packet` is all that there is, what has no flags passes too.
#[inline(always)]
fn is_nothing(packet: &impl Packet, target: &Target, is_whole: bool) -> bool {
    // For nearly every packet of a machine this line is the end.
    if !is_guarded(target.proto, target.destination_port) {
        return true;
    }
    // And for nearly every packet of a tunnel this one: nothing of what follows is made ready for it.
    if target.proto == UDP {
        is_known(packet, target)
    } else {
        !is_bind_port(target.destination_port)
            && target.is_tcp_open(packet).map_or(is_whole, |opens| !opens)
    }
}

/// Judges what goes to a guarded port, and may open a flow there or greet.
#[inline(always)]
fn judge(packet: &impl Wire, target: &Target) -> bool {
    let Some(headers) = target.headers(packet) else {
        return true;
    };
    if headers.proto == TCP && !headers.is_tcp_open() {
        return greeting::passes(packet, &headers);
    }
    let Some(sides) = headers.sides(packet) else {
        return true;
    };
    let reason = opening(&headers, &sides);
    reason == 0 || drop(reason, &headers, &sides)
}

/// Whether a datagram is of a flow that has its mark. Such a one passes whomever it is addressed to.
#[inline(always)]
fn is_known(packet: &impl Packet, target: &Target) -> bool {
    target
        .remote(packet)
        .is_some_and(|remote| known::is_marked(remote, target.source_port, target.destination_port))
}

/// Judges a packet that opens a flow (or may: UDP) to a guarded port: the number of the reason to drop it, or 0.
/// It does not drop by itself: frames of calls add up, to 512 bytes at most.
#[inline(never)]
fn opening(headers: &Headers, sides: &Sides) -> u32 {
    let Some(config) = config() else { return 0 };
    // What is forwarded, or answers somebody behind this machine, is not ours to judge.
    if !is_local(&sides.local) {
        return 0;
    }
    let (proto, port) = (headers.proto, headers.destination_port);
    if is_control(config, proto, port) {
        return number_if(is_banned(&sides.remote), Reason::ClientBanned);
    }
    let key = PortKey {
        port,
        proto,
        pad: 0,
    };
    let place = pool::place(proto, port);
    let gate = GATES.get(place).filter(|gate| gate.tenant != 0);
    let (interval_ns, burst_ns, tat) = if let Some(gate) = gate {
        let interval_ns = u64::from(gate.syn_interval_ns);
        (interval_ns, gate.syn_burst_ns, SYN_TATS.get_ptr_mut(place))
    } else {
        // SAFETY: the value is read once; the daemon replaces entries whole.
        let Some(lease) = (unsafe { PORTS.get(&key) }) else {
            let answers = proto != TCP && is_answer(Outbound::new(headers, sides).key());
            return number_if(!answers, Reason::NoLease);
        };
        let usage = PORT_USAGE.get_ptr_mut(&key);
        // SAFETY: a field of a live map value.
        let tat = usage.map(|usage| unsafe { &raw mut (*usage).syn_tat_ns });
        (lease.syn_interval_ns, lease.syn_burst_ns, tat)
    };
    let at = roughly();
    if proto != TCP {
        let flow = Flow {
            remote: sides.remote,
            remote_port: headers.source_port,
            port,
            pad: 0,
        };
        // A flow that is known is no opening, answered or not (some are never answered); bans and
        // revocation remove it.
        // SAFETY: the value is read once.
        if let Some(known) = unsafe { FLOWS.get(flow.key()) } {
            // The others are about to be: they end sooner.
            if known.state == FLOW_CONFIRMED {
                known::mark(flow.key());
            }
            return 0;
        }
        // SAFETY: a lookup whose value is not used.
        if known::may_be_candidate(config, flow.key(), at)
            && unsafe { CANDIDATES.get(flow.key()).is_some() }
        {
            return 0;
        }
    }
    if is_banned(&sides.remote) {
        return Reason::ClientBanned.number();
    }
    if source_is_over(config, sides.remote, place, at) {
        return Reason::RateLimited.number();
    }
    if interval_ns != 0
        && let Some(tat) = tat
    {
        // SAFETY: an aligned u64 of a live map value.
        let within =
            unsafe { atomic::update(tat, |tat| bucket::take(tat, at, interval_ns, burst_ns)) };
        if !within {
            return Reason::ConnRate.number();
        }
    }
    0
}

/// The number of a reason that is there, or 0.
#[inline(always)]
const fn number_if(is_there: bool, reason: Reason) -> u32 {
    if is_there { reason.number() } else { 0 }
}

/// Drops; always false. A call of its own, so that what passes makes nothing ready for it.
#[inline(never)]
fn drop(reason: u32, headers: &Headers, sides: &Sides) -> bool {
    let key = PortKey {
        port: headers.destination_port,
        proto: headers.proto,
        pad: 0,
    };
    // SAFETY: the value is read once; the daemon replaces entries whole.
    let lease = || unsafe { PORTS.get(&key) };
    let tenant = if reason == Reason::NoLease.number() {
        0
    } else {
        match GATES.get(pool::place(key.proto, key.port)) {
            Some(gate) if gate.tenant != 0 => gate.tenant,
            _ => lease().map_or(0, |lease| lease.tenant),
        }
    };
    // Hardly any of a flood is told of: nothing is made ready for that before.
    if let Some(at) = count(tenant, reason) {
        let lease = lease().filter(|lease| lease.tenant == tenant);
        let lease = lease.map_or(0, |lease| lease.lease);
        let subject = Subject {
            tenant,
            lease,
            remote: *bytes(&sides.remote),
            remote_port: headers.source_port,
            port: headers.destination_port,
            proto: headers.proto,
        };
        tell(reason, &subject, at);
    }
    false
}

/// An address as the maps have it.
#[inline(always)]
fn bytes(words: &Words) -> &Addr {
    // SAFETY: as large, aligned for more, and any bytes are an address.
    unsafe { &*core::ptr::from_ref(words).cast() }
}

/// Whether an address is the node's own.
#[inline(always)]
fn is_local(local: &Words) -> bool {
    // Not where none is known: no address of a node ends in eight zeros.
    let near = NEAR
        .get(near::place(*local))
        .is_some_and(|near| near == local)
        && local[1] != 0;
    // SAFETY: a lookup whose value is not used.
    near || unsafe { LOCALS.get(bytes(local)) }.is_some()
}

/// Whether a source is banned now.
#[inline(always)]
pub(crate) fn banned(remote: &Addr) -> bool {
    is_banned(&words(remote))
}

/// The same of an address in words.
#[inline(always)]
fn is_banned(remote: &Words) -> bool {
    let word = |place| BANNED.get(place).copied();
    let head = word(0).unwrap_or(banned::UNKNOWN);
    match banned::asks(head, *remote, |place| word(place).unwrap_or(u64::MAX)) {
        Asks::Not => false,
        Asks::Single(hash) => match SINGLES.get(banned::place_of_single(hash)) {
            Some(single) if single.hash == hash => is_on(single.until_ns),
            _ => is_banned_by_prefix(remote),
        },
        Asks::Prefix => is_banned_by_prefix(remote),
    }
}

/// Whether a ban holds now. One without an end needs no clock.
#[inline(always)]
fn is_on(until_ns: u64) -> bool {
    until_ns == 0 || !is_over(until_ns, lately())
}

/// A key of `BANS`, in words: put together from bytes it costs more than a look-up among a thousand bans.
#[repr(C)]
struct Whole {
    bits: u32,
    halves: [u32; 4],
}

/// What `BANS` says.
#[inline(always)]
fn is_banned_by_prefix(remote: &Words) -> bool {
    let [first, second] = remote.map(u64::to_le);
    let key = Whole {
        bits: 128,
        halves: [
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
        ],
    };
    // SAFETY: as large as a key, which is packed, and any bytes are an address.
    let key: &Key<Addr> = unsafe { &*core::ptr::from_ref(&key).cast() };
    BANS.get(key).is_some_and(|ban| is_on(ban.until_ns))
}

/// A [`FlowKey`] in words.
#[repr(C)]
struct Flow {
    remote: Words,
    remote_port: u16,
    port: u16,
    pad: u32,
}

impl Flow {
    #[inline(always)]
    fn key(&self) -> &FlowKey {
        const { assert!(size_of::<Flow>() == size_of::<FlowKey>()) };
        // SAFETY: the same fields at the same places, aligned for more.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }
}

/// An [`OutboundKey`] in words.
#[repr(C)]
struct Outbound {
    sides: Sides,
    remote_port: u16,
    local_port: u16,
    pad: u32,
}

impl Outbound {
    /// The flow that a datagram would answer.
    #[inline(always)]
    fn new(headers: &Headers, sides: &Sides) -> Outbound {
        Outbound {
            sides: *sides,
            remote_port: headers.source_port,
            local_port: headers.destination_port,
            pad: 0,
        }
    }

    #[inline(always)]
    fn key(&self) -> &OutboundKey {
        const { assert!(size_of::<Outbound>() == size_of::<OutboundKey>()) };
        // SAFETY: the same fields at the same places, aligned for more.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }
}

/// Spends one of a source's new flows to a port; whether it had none left.
#[inline(always)]
fn source_is_over(config: &Config, remote: Words, place: u32, at: u64) -> bool {
    if config.source_interval_ns == 0 {
        return false;
    }
    // Two hashes, so that sources which share a cell of one row don't in the other.
    let source = prefix::at_port(prefix::source_words(remote), place);
    let first = prefix::mix(source, config.sketch_seed) as u32 & (SKETCH_CELLS - 1);
    let second = prefix::mix(source, !config.sketch_seed) as u32 & (SKETCH_CELLS - 1);
    let second = SKETCH_CELLS + second;
    let first = spend(config, first, at);
    let second = spend(config, second, at);
    !first && !second
}

/// Spends from one cell; whether it had something left.
#[inline(always)]
fn spend(config: &Config, cell: u32, at: u64) -> bool {
    let Some(tat) = SKETCH.get_ptr_mut(cell) else {
        return true;
    };
    // SAFETY: an aligned u64 of a live map value. Plain read and write: what two CPUs lose to each
    // other here is one flow of a rate.
    unsafe {
        match bucket::take(*tat, at, config.source_interval_ns, config.source_burst_ns) {
            Some(next) => {
                *tat = next;
                true
            }
            None => false,
        }
    }
}
