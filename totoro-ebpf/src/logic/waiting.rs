//! Where it is noted which new UDP flows are a tenant's: one after the other, round and round. Whose note is written
//! over is forgotten, so that a flood of one tenant's ports takes the places of its own new flows, and not of its
//! neighbours'.

use super::prefix;
use crate::abi::{TURNS_PLACES, WAITING_EACH, WAITING_PLACES};

/// Spreads a word: whatever the numbers of two tenants are, their places are none of each other's but by chance.
#[inline(always)]
const fn spread(word: u64) -> u64 {
    prefix::mix([word.to_be(), 0], 0)
}

/// The place of a tenant's `nth` new flow. Of all places one in eight has a flow that waits still, of whichever
/// tenant: that there are no more is what `CANDIDATES` has room for.
#[inline(always)]
#[must_use]
pub const fn place(tenant: u32, nth: u64) -> u32 {
    let own = (tenant as u64) << 32 | (nth % WAITING_EACH + 1);
    spread(own) as u32 & (WAITING_PLACES - 1)
}

/// The place where a tenant's new flows are counted. Tenants that have the same one leave some of their places out.
#[inline(always)]
#[must_use]
pub const fn turn(tenant: u32) -> u32 {
    spread(tenant as u64 + 1) as u32 & (TURNS_PLACES - 1)
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
        for tenant in [0, 1, 3, 65_536, u32::MAX] {
            let count = places(tenant).len() as u64;
            // Some are the same by chance.
            assert!(
                count <= WAITING_EACH && count > WAITING_EACH * 95 / 100,
                "{tenant}: {count}"
            );
            assert!(
                places(tenant).iter().all(|at| *at < WAITING_PLACES),
                "{tenant}"
            );
            assert!(turn(tenant) < TURNS_PLACES, "{tenant}");
            assert_eq!(
                place(tenant, 7),
                place(tenant, WAITING_EACH + 7),
                "round and round"
            );
        }
    }

    #[test]
    fn no_two_tenants_have_most_places_in_common() {
        let first = places(2);
        for tenant in 3..300 {
            let common = first.intersection(&places(tenant)).count() as u64;
            assert!(common < WAITING_EACH / 10, "{tenant}: {common}");
        }
        let turns: HashSet<u32> = (1..=100).map(turn).collect();
        assert!(turns.len() > 95, "{}", turns.len());
    }
}
