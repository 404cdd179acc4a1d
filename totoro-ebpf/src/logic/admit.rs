//! Who may open a flow to a pool port. Reads limits, spends nothing: the socket lookup runs for
//! segments that open nothing too (stray ACKs, RSTs), so spending belongs to ESTABLISHED.

use totoro_api::Reason;

use super::bucket;
use crate::abi::{ACTIVE, CANARY, FLOW_CONFIRMED, FLOW_RECYCLED, Lease, Tenant, Usage};

/// Everything there is to know of a tenant's side of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Its policy.
    pub tenant: &'a Tenant,
    /// Its counts.
    pub usage: &'a Usage,
}

/// Whether time has passed `at_ns` (0 = never).
#[inline(always)]
#[must_use]
pub const fn is_over(at_ns: u64, now_ns: u64) -> bool {
    at_ns != 0 && at_ns <= now_ns
}

/// Whether what already flows under a tenant is cut: the reason's number, or 0.
#[inline(always)]
#[must_use]
pub const fn cut(tenant: &Tenant, now_ns: u64) -> u32 {
    if tenant.state == crate::abi::CUT {
        tenant.reason
    } else if is_over(tenant.expires_ns, now_ns) {
        Reason::InviteExpired.number()
    } else {
        0
    }
}

/// Whether what was admitted under lease `number` has lost it, given the lease that its port has
/// now: the reason's number, or 0.
#[inline(always)]
#[must_use]
pub const fn lapsed(lease: &Lease, number: u64, now_ns: u64) -> u32 {
    if lease.lease != number {
        Reason::NoLease.number()
    } else if is_over(lease.expires_ns, now_ns) {
        Reason::SessionExpired.number()
    } else {
        0
    }
}

/// Without a datagram for so long what is not confirmed is idle, ns.
const UNCONFIRMED_NS: u64 = 10_000_000_000;

/// What is not confirmed and was not heard for so long is gone, or about to be: whoever looks for what is idle
/// comes each second or two, ns.
pub const UNHEARD_NS: u64 = 2 * UNCONFIRMED_NS;

/// How long a UDP flow may be silent before it ends, ns: one whose user has not written again after
/// an answer may be a spoofer's, and holds its place for ten seconds at most.
#[inline(always)]
#[must_use]
pub const fn flow_idle(state: u32, idle_ns: u64) -> u64 {
    if state != FLOW_CONFIRMED && idle_ns > UNCONFIRMED_NS {
        UNCONFIRMED_NS
    } else {
        idle_ns
    }
}

/// A moment in units of 2^30 ns, some more than a second: as exact as minutes need.
#[inline(always)]
#[must_use]
pub const fn coarse(at_ns: u64) -> u32 {
    (at_ns >> 30) as u32
}

/// How long a user who listens and writes nothing is served, in units of 2^30 ns: five minutes, the least that RFC
/// 4787 (REQ-5) has a NAT keep a mapping for.
const LISTENS: u32 = coarse(300_000_000_000);

/// Whether a datagram to a flow's user keeps it from being idle. Only if the user was `heard` (coarse) not long ago,
/// and confirmed the flow: else who forges two datagrams has the node write to a stranger for ever.
#[inline(always)]
#[must_use]
pub const fn keeps(state: u32, heard: u32, now_ns: u64) -> bool {
    state == FLOW_CONFIRMED && coarse(now_ns).wrapping_sub(heard) < LISTENS
}

/// Whether nobody has looked for what is idle for long: the daemon does each second.
#[inline(always)]
#[must_use]
pub const fn is_overdue(looked_ns: u64, now_ns: u64) -> bool {
    looked_ns.saturating_add(2_000_000_000) < now_ns
}

/// Count of a source that is being removed: above any limit, and far from both ends.
pub const FORGOTTEN: u64 = 1 << 63;

/// What is counted on a source whose entry has `count`: nothing, where that is about to go.
#[inline(always)]
#[must_use]
pub const fn counted(count: u64) -> u64 {
    if count < FORGOTTEN { count } else { 0 }
}

/// Whether the entry of a source that has `count` is to go: nothing is counted on it, and nobody came
/// back for five seconds (most come back at once, and need no new entry); or its removal was begun
/// so long ago that it must have failed.
#[inline(always)]
#[must_use]
pub const fn is_source_idle(count: u64, last_ns: u64, now_ns: u64) -> bool {
    (count == 0 || count >= FORGOTTEN) && last_ns.saturating_add(5_000_000_000) < now_ns
}

/// Whether a flow that was last written to from here at `sent_ns` may still be answered: for three
/// minutes, the stream time-out of the kernel's own connection tracking.
#[inline(always)]
#[must_use]
pub const fn may_be_answered(sent_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(sent_ns) < 180_000_000_000
}

/// Whether lease and tenant admit anything new at all: the reason's number, or 0.
///
/// `hold` is the whole pool's (`Config::hold`). The daemon's own connections are let through it: else trying
/// whether the kernel is well again would have to open the pool to everybody.
#[inline(always)]
#[must_use]
pub const fn open(hold: u32, lease: &Lease, tenant: &Tenant, now_ns: u64) -> u32 {
    if hold != 0 && lease.tenant != CANARY {
        hold
    } else if tenant.state != ACTIVE {
        tenant.reason
    } else if is_over(tenant.expires_ns, now_ns) {
        Reason::InviteExpired.number()
    } else if is_over(lease.expires_ns, now_ns) {
        Reason::SessionExpired.number()
    } else {
        lease.hold
    }
}

/// Whether one more TCP connection fits a tenant's limits: the reason's number, or 0.
///
/// `from_source` is what the connection's source already has.
#[inline(always)]
#[must_use]
pub fn connection(standing: Standing<'_>, from_source: u64, now_ns: u64) -> u32 {
    let Standing { tenant, usage } = standing;
    if usage.conns >= tenant.max_conns as u64 {
        Reason::MaxConns.number()
    } else if from_source >= tenant.max_conns_per_source as u64 {
        Reason::MaxConnsPerSource.number()
    } else if bucket::take(
        usage.conn_tat_ns,
        now_ns,
        tenant.conn_interval_ns,
        tenant.conn_burst_ns,
    )
    .is_none()
    {
        Reason::ConnRate.number()
    } else {
        0
    }
}

/// How many UDP flows a tenant has.
#[inline(always)]
#[must_use]
pub const fn live_flows(opened: u64, closed: u64) -> u64 {
    // The two are read at different moments: never below zero.
    opened.saturating_sub(closed)
}

/// What may go out on a flow whose user wrote only once, so that a spoofed source cannot make the
/// node a reflector: three times what came in (the limit of RFC 9000, 8.1), and 16 KiB if it took nobody's
/// place. Of those a tenant has `max_flows` in ten seconds (a few more where two processors take turns at a place).
#[inline(always)]
#[must_use]
pub const fn unconfirmed_budget(state: u32, bytes_in: u64) -> u64 {
    let beyond = if state == FLOW_RECYCLED { 0 } else { 16 * 1024 };
    bytes_in * 3 + beyond
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::abi::{CUT, FLOW_ANSWERED, HELD};

    const NOW: u64 = 1_000;

    fn tenant() -> Tenant {
        Tenant {
            state: ACTIVE,
            max_conns: 5,
            max_flows: 5,
            max_conns_per_source: 3,
            ..Tenant::default()
        }
    }

    #[test]
    fn what_opens() {
        let lease = Lease {
            tenant: 1,
            lease: 1,
            ..Lease::default()
        };
        let revoked = Reason::InviteRevoked.number();
        let paused = Reason::InvitePaused.number();
        for (what, hold, lease, tenant, reason) in [
            ("all is well", 0, lease, tenant(), 0),
            ("the pool is held", 86, lease, tenant(), 86),
            (
                "the pool is held, and the daemon tries it",
                86,
                Lease {
                    tenant: CANARY,
                    ..lease
                },
                tenant(),
                0,
            ),
            (
                "paused",
                0,
                lease,
                Tenant {
                    state: HELD,
                    reason: paused,
                    ..tenant()
                },
                paused,
            ),
            (
                "revoked",
                0,
                lease,
                Tenant {
                    state: CUT,
                    reason: revoked,
                    ..tenant()
                },
                revoked,
            ),
            (
                "expires later",
                0,
                lease,
                Tenant {
                    expires_ns: NOW + 1,
                    ..tenant()
                },
                0,
            ),
            (
                "expired",
                0,
                lease,
                Tenant {
                    expires_ns: NOW,
                    ..tenant()
                },
                22,
            ),
            (
                "the session is over",
                0,
                Lease {
                    expires_ns: NOW,
                    ..lease
                },
                tenant(),
                16,
            ),
            (
                "the lease is held",
                0,
                Lease { hold: 57, ..lease },
                tenant(),
                57,
            ),
        ] {
            assert_eq!(open(hold, &lease, &tenant, NOW), reason, "{what}");
        }
    }

    #[test]
    fn what_is_cut() {
        assert_eq!(cut(&tenant(), NOW), 0);
        assert_eq!(
            cut(
                &Tenant {
                    state: HELD,
                    reason: 23,
                    ..tenant()
                },
                NOW
            ),
            0,
            "pause cuts nothing"
        );
        assert_eq!(
            cut(
                &Tenant {
                    state: CUT,
                    reason: 21,
                    ..tenant()
                },
                NOW
            ),
            21
        );
        assert_eq!(
            cut(
                &Tenant {
                    expires_ns: NOW,
                    ..tenant()
                },
                NOW
            ),
            22
        );
    }

    #[test]
    fn what_a_lease_carries() {
        let lease = Lease {
            lease: 7,
            expires_ns: NOW + 1,
            ..Lease::default()
        };
        assert_eq!(lapsed(&lease, 7, NOW), 0);
        assert_eq!(lapsed(&lease, 6, NOW), 70, "an earlier lease's");
        assert_eq!(lapsed(&lease, 7, NOW + 1), 16, "the session is over");
    }

    #[test]
    fn how_long_silence_lasts() {
        const S: u64 = 1_000_000_000;
        assert_eq!(flow_idle(FLOW_CONFIRMED, 60 * S), 60 * S);
        assert_eq!(flow_idle(FLOW_ANSWERED, 60 * S), 10 * S);
        assert_eq!(flow_idle(FLOW_RECYCLED, 60 * S), 10 * S);
        assert_eq!(flow_idle(FLOW_ANSWERED, S), S);
        assert!(may_be_answered(NOW, NOW + 179 * S) && !may_be_answered(NOW, NOW + 180 * S));
    }

    #[test]
    fn what_a_user_gets_who_may_not_exist() {
        assert_eq!(unconfirmed_budget(FLOW_ANSWERED, 100), 300 + 16 * 1024);
        assert_eq!(unconfirmed_budget(FLOW_RECYCLED, 100), 300);
    }

    #[test]
    fn what_fits() {
        let (interval, burst) = bucket::rate(1, 1);
        let rated = Tenant {
            conn_interval_ns: interval,
            conn_burst_ns: burst,
            ..tenant()
        };
        for (what, tenant, conns, from_source, tat, reason) in [
            ("the fifth", tenant(), 4, 0, 0, 0),
            ("the sixth", tenant(), 5, 0, 0, 52),
            ("over, after the limit was lowered", tenant(), 9, 0, 0, 52),
            ("the third of a source", tenant(), 2, 2, 0, 0),
            ("the fourth of a source", tenant(), 3, 3, 0, 54),
            ("within the rate", rated, 0, 0, NOW, 0),
            ("above the rate", rated, 0, 0, NOW + 1, 55),
        ] {
            let usage = Usage {
                conns,
                conn_tat_ns: tat,
                ..Usage::default()
            };
            let standing = Standing {
                tenant: &tenant,
                usage: &usage,
            };
            assert_eq!(connection(standing, from_source, NOW), reason, "{what}");
        }
    }
}
