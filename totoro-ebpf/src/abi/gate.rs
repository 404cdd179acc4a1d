//! What the shield has at hand of leases, bans and flows.

use super::{Lease, abi};

/// Number of places of `GATES` and `SYN_TATS`: one for each port of both protocols.
pub const PLACES: u32 = 2 * 65_536;

/// Bits of `BANNED` ([`crate::logic::banned`]), a power of two: 128 KiB, in which 10,000 bans have a
/// hundredth of the others asked for in vain. The first place is the head; derived from `BANS`, never adopted.
pub const BANNED_BITS: u32 = 1 << 20;

/// Places of `BANNED`.
pub const BANNED_PLACES: u32 = 1 + BANNED_BITS / 64;

/// Places of `SINGLES`, a power of two: as many as there may be bans, 1 MiB.
pub const SINGLES_PLACES: u32 = 65_536;

/// `SINGLES`: a ban of a single address. Derived from `BANS` by the daemon that loads the programs, and never
/// adopted. Where two have one place, one of them is not in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Single {
    /// The address, as a hash of 64 bits whose seed nobody knows.
    pub hash: u64,
    /// As in [`super::Ban`].
    pub until_ns: u64,
}

/// Places of `NEAR` ([`crate::logic::near`]), a power of two: as many as there may be addresses, 64 KiB. Of ten
/// addresses no two have one place in 99 of 100 nodes.
pub const NEAR_PLACES: u32 = 4_096;

/// Flows that may be marked at one place of `KNOWN` ([`crate::logic::known`]), all in one line of the caches.
pub const KNOWN_WAYS: usize = 4;

/// Places of `KNOWN`, a power of two: room for twice as many flows as there may be, 1 MiB. Of as many as there may
/// be 4 % find no room among the others of their place, of 20,000 none. Written by the kernel, not pinned.
pub const KNOWN_PLACES: u32 = 32_768;

/// Places of `HEARD`, a power of two: as many as there may be flows, 512 KiB. Written by the kernel, not pinned.
pub const HEARD_PLACES: u32 = 65_536;

/// Places of `ANSWERED`, a power of two: as many as `FLOWS` has entries.
pub const ANSWERED_PLACES: u32 = 65_536;

/// UDP flows of one tenant that may wait for their first answer at once: a quarter of `CANDIDATES`, so that no tenant
/// alone, however many ports it has, takes the places of the others'.
pub const WAITING_EACH: u64 = 4_096;

/// Places of `WAITING`, a power of two: eight for each flow that may wait, 3 MiB.
pub const WAITING_PLACES: u32 = 131_072;

/// Places of `TURNS`, a power of two.
pub const TURNS_PLACES: u32 = 4_096;

/// `GATES`: what the shield must know of a leased port, where no hash is needed to find it
/// ([`crate::logic::pool::place`]). Derived from `PORTS` by the daemon that loads the programs, and never
/// adopted. Zeros: nothing is known, and `PORTS` is asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// The tenant; 0 = nothing is known.
    pub tenant: u32,
    /// As in [`Lease`].
    pub syn_interval_ns: u32,
    /// As in [`Lease`].
    pub syn_burst_ns: u64,
}

impl Gate {
    /// The gate of a lease, where it fits into one; else zeros.
    #[must_use]
    pub fn of(lease: &Lease) -> Gate {
        match u32::try_from(lease.syn_interval_ns) {
            Ok(syn_interval_ns) => Gate {
                tenant: lease.tenant,
                syn_interval_ns,
                syn_burst_ns: lease.syn_burst_ns,
            },
            Err(_) => Gate::default(),
        }
    }
}

abi! { Gate: 16, Single: 16 }
