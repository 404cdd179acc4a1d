//! The shield's verdict, the same in XDP and TC ingress: drops what opens a flow to a pool port
//! without a lease, and floods. Whatever it lets through, the socket lookup judges again.

use totoro_api::Reason;
use totoro_ebpf::abi::{Addr, Config, FlowKey, OutboundKey, PortKey, TCP};
use totoro_ebpf::logic::{admit::is_over, bucket, prefix};
use totoro_ebpf::packet::Headers;

use aya_ebpf::btf_maps::lpm_trie::Key;

use super::greeting::{self, Wire};
use super::{config, is_answer, is_control, is_guarded};
use crate::atomic;
use crate::maps::{BANS, CANDIDATES, FLOWS, LOCALS, PORT_USAGE, PORTS, SKETCH, SKETCH_CELLS};
use crate::verdict::{Subject, now, refuse};

/// Whether a packet may pass.
#[inline(always)]
pub(crate) fn passes(packet: &impl Wire) -> bool {
    let Some(headers) = Headers::from_ethernet(packet) else {
        return true;
    };
    // For nearly every packet of a machine one of these two lines is the end.
    if !is_guarded(headers.proto, headers.destination_port) {
        return true;
    }
    if headers.proto == TCP && !headers.is_tcp_open() {
        return greeting::passes(packet, &headers);
    }
    let Some((remote, local)) = headers.addresses(packet) else {
        return true;
    };
    opening(&headers, &remote, &local)
}

/// Whether a packet that opens a flow (or may: UDP) to a guarded port may pass.
#[inline(never)]
fn opening(headers: &Headers, remote: &Addr, local: &Addr) -> bool {
    let Some(config) = config() else { return true };
    // What is forwarded, or answers somebody behind this machine, is not ours to judge.
    // SAFETY: a lookup whose value is not used.
    if unsafe { LOCALS.get(local) }.is_none() {
        return true;
    }
    let port = headers.destination_port;
    let key = PortKey {
        port,
        proto: headers.proto,
        pad: 0,
    };
    let mut subject = Subject {
        tenant: 0,
        lease: 0,
        remote: *remote,
        remote_port: headers.source_port,
        port,
        proto: headers.proto,
    };
    if is_control(config, headers.proto, port) {
        return !banned(remote) || drop(Reason::ClientBanned, &subject);
    }
    // SAFETY: the value is read once; the daemon replaces entries whole.
    let Some(lease) = (unsafe { PORTS.get(&key) }) else {
        return headers.proto != TCP && is_answer(&outbound(headers, remote, local))
            || drop(Reason::NoLease, &subject);
    };
    subject.tenant = lease.tenant;
    subject.lease = lease.lease;
    let (interval_ns, burst_ns) = (lease.syn_interval_ns, lease.syn_burst_ns);
    if headers.proto != TCP {
        let flow = FlowKey {
            remote: *remote,
            remote_port: headers.source_port,
            port,
            pad: 0,
        };
        // A flow that is known is no opening, answered or not (some are never answered); bans and
        // revocation remove it.
        // SAFETY: lookups whose values are not used.
        if unsafe { FLOWS.get(&flow).is_some() || CANDIDATES.get(&flow).is_some() } {
            return true;
        }
    }
    if banned(remote) {
        return drop(Reason::ClientBanned, &subject);
    }
    let at = now();
    if source_is_over(config, remote, at) {
        return drop(Reason::RateLimited, &subject);
    }
    if interval_ns != 0 {
        if let Some(usage) = PORT_USAGE.get_ptr_mut(&key) {
            // SAFETY: an aligned u64 of a live map value.
            let within = unsafe {
                atomic::update(&raw mut (*usage).syn_tat_ns, |tat| {
                    bucket::take(tat, at, interval_ns, burst_ns)
                })
            };
            if !within {
                return drop(Reason::ConnRate, &subject);
            }
        }
    }
    true
}

#[inline(always)]
fn drop(reason: Reason, subject: &Subject) -> bool {
    refuse(reason.number(), subject);
    false
}

/// Whether a source is banned now.
#[inline(always)]
pub(crate) fn banned(remote: &Addr) -> bool {
    BANS.get(&Key::new(128, *remote))
        .is_some_and(|ban| !is_over(ban.until_ns, now()))
}

/// The flow that a datagram would answer.
#[inline(always)]
fn outbound(headers: &Headers, remote: &Addr, local: &Addr) -> OutboundKey {
    OutboundKey {
        remote: *remote,
        local: *local,
        remote_port: headers.source_port,
        local_port: headers.destination_port,
        pad: 0,
    }
}

/// Spends one of a source's new flows; whether it had none left.
#[inline(always)]
fn source_is_over(config: &Config, remote: &Addr, at: u64) -> bool {
    if config.source_interval_ns == 0 {
        return false;
    }
    // Two hashes, so that sources which share a cell of one row don't in the other.
    let source = prefix::source(remote);
    let first = prefix::mix(&source, config.sketch_seed) as u32 & (SKETCH_CELLS - 1);
    let second = prefix::mix(&source, !config.sketch_seed) as u32 & (SKETCH_CELLS - 1);
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
