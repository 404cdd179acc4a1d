//! Where it is noted which new UDP flows are a tenant's: the last ones, one after the other, round and round. Whose
//! note is written over is forgotten, so that a flood of one tenant's ports takes the places of its own new flows,
//! and not of its neighbours'.

use crate::abi::{TURNS_PLACES, WAITING_EACH, WAITING_PLACES};

/// Knuth's multiplicative hash: neighbours among the numbers of tenants are far from each other.
#[inline(always)]
const fn hash(tenant: u32) -> u32 {
    tenant.wrapping_mul(0x9e37_79b1)
}

/// The place of a tenant's `nth` new flow. Tenants' places may be the same ones; then a note is lost, and that flow
/// waits until it is the oldest of all.
#[inline(always)]
#[must_use]
pub const fn place(tenant: u32, nth: u64) -> u32 {
    let first = hash(tenant) >> (32 - WAITING_PLACES.trailing_zeros());
    first.wrapping_add((nth % WAITING_EACH) as u32) & (WAITING_PLACES - 1)
}

/// The place where a tenant's new flows are counted. Tenants that have the same one leave some of their places out.
#[inline(always)]
#[must_use]
pub const fn turn(tenant: u32) -> u32 {
    hash(tenant) >> (32 - TURNS_PLACES.trailing_zeros())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;

    fn places(tenant: u32) -> HashSet<u32> {
        (0..3 * WAITING_EACH)
            .map(|nth| place(tenant, nth))
            .collect()
    }

    #[test]
    fn a_tenant_has_so_many_places_and_no_more() {
        for tenant in [1, 3, 65_536, u32::MAX] {
            let places = places(tenant);
            assert_eq!(places.len() as u64, WAITING_EACH, "{tenant}");
            assert!(places.iter().all(|at| *at < WAITING_PLACES), "{tenant}");
            assert!(turn(tenant) < TURNS_PLACES, "{tenant}");
            assert_eq!(
                place(tenant, 7),
                place(tenant, WAITING_EACH + 7),
                "round and round"
            );
        }
    }

    #[test]
    fn tenants_have_places_of_their_own() {
        let of = 1..=20;
        let all: HashSet<u32> = of.clone().flat_map(places).collect();
        assert!(
            all.len() as u64 > 20 * WAITING_EACH * 9 / 10,
            "{}",
            all.len()
        );
        assert_eq!(of.map(turn).collect::<HashSet<_>>().len(), 20);
    }
}
