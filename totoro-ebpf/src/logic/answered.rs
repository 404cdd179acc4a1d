//! Where a tenant's UDP flows are noted that were answered: whoever comes when the tenant has no more may take
//! the place of one that was not confirmed since, as the kernel's own connection tracking drops what is not
//! assured (`early_drop`). A note is a hint: `FLOWS` says whether the flow is there, and what it is.

use super::known::mark;
use crate::abi::ANSWERED_PLACES;
use crate::packet::Words;

/// Places of a tenant, as many as it may have flows: so many at most.
const EACH: u64 = 256;

/// The `nth` of a tenant's places, round and round. Tenants' places may be the same ones; then a note is lost, and that
/// flow keeps its place until it is idle.
#[inline(always)]
#[must_use]
pub const fn place(tenant: u32, max_flows: u32, nth: u64) -> u32 {
    let max = max_flows as u64;
    let places = match max {
        0 => 1,
        _ if max < EACH => max,
        _ => EACH,
    };
    // Knuth's multiplicative hash: neighbours among the numbers of tenants are far from each other.
    let first = tenant.wrapping_mul(0x9e37_79b1) >> 16;
    first.wrapping_add((nth % places) as u32) & (ANSWERED_PLACES - 1)
}

/// What a source's places are known by, of those in the second half: nobody can choose sources that share them who
/// does not know `seed`.
#[inline(always)]
#[must_use]
pub const fn number(source: Words, tenant: u32, seed: u64) -> u32 {
    mark(source, 0, 0, seed) as u32 ^ tenant
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;

    fn places(tenant: u32, max_flows: u32) -> HashSet<u32> {
        (0..1_000)
            .map(|nth| place(tenant, max_flows, nth))
            .collect()
    }

    #[test]
    fn a_tenant_has_as_many_places_as_flows_up_to_a_bound() {
        for (max_flows, count) in [
            (0, 1),
            (1, 1),
            (5, 5),
            (256, 256),
            (257, 256),
            (u32::MAX, 256),
        ] {
            assert_eq!(places(3, max_flows).len(), count, "{max_flows}");
        }
        assert!(places(u32::MAX, 256).iter().all(|at| *at < ANSWERED_PLACES));
        assert_eq!(place(3, 5, 7), place(3, 5, 2), "round and round");
    }

    #[test]
    fn tenants_have_places_of_their_own() {
        let all: HashSet<u32> = (1..=100).flat_map(|tenant| places(tenant, 64)).collect();
        assert!(all.len() > 100 * 64 * 8 / 10, "{}", all.len());
    }
}
