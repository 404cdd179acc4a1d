//! A heartbeat has a bound, and a node may have more tenants than it takes.

use std::cmp::Reverse;

use totoro_api::wire::node::TenantUsage;

/// What the tenants of one heartbeat take at most, bytes of JSON: the control plane takes bodies of
/// 1 MiB, and the rest of a heartbeat is a few KiB, or 16 more with a certificate.
const ROOM: usize = 960 * 1024;

/// As many tenants as there is room for, those with user connections and flows first, then those
/// with sessions; and how many are left out.
pub(super) fn fit(mut tenants: Vec<TenantUsage>) -> (Vec<TenantUsage>, usize) {
    tenants.sort_by_key(|one| Reverse((one.conns + one.flows, one.sessions.len())));
    let mut taken = 0;
    let fits = |one: &&TenantUsage| {
        // With the comma.
        taken += serde_json::to_vec(one).map_or(ROOM, |json| json.len() + 1);
        taken <= ROOM
    };
    let fitting = tenants.iter().take_while(fits).count();
    let left = tenants.len() - fitting;
    tenants.truncate(fitting);
    (tenants, left)
}

#[cfg(test)]
mod tests {
    use totoro_api::wire::node::SessionUsage;

    use super::*;

    #[test]
    fn more_tenants_than_there_is_room_for_leave_out_the_quiet_ones() {
        let tenant = |n: u64| TenantUsage {
            tenant: format!("inv-{n}"),
            conns: u64::from(n == 19_999),
            sessions: vec![SessionUsage::default(); usize::from(n % 2 == 1)],
            ..TenantUsage::default()
        };
        let all: Vec<_> = (0..20_000).map(tenant).collect();
        let (few, none) = fit(all[..100].to_vec());
        assert_eq!((few.len(), none), (100, 0));
        let (some, left) = fit(all);
        assert_eq!(some.len() + left, 20_000);
        let size = serde_json::to_vec(&some).unwrap().len();
        assert!(size <= ROOM && ROOM - size < 1024, "{size}");
        assert_eq!(some[0].tenant, "inv-19999", "the busiest first");
        assert!(some.iter().all(|one| !one.sessions.is_empty()));
    }
}
