//! A heartbeat has a bound, and a node may have more tenants than it takes.

use totoro_api::wire::node::TenantUsage;

/// What the tenants of one heartbeat take at most, bytes of JSON: the control plane takes bodies of
/// 1 MiB, and the rest of a heartbeat is a few KiB, or 16 more with a certificate.
const ROOM: usize = 960 * 1024;

/// What is left of it.
pub(super) struct Room(usize);

impl Room {
    pub(super) const fn new() -> Room {
        Room(ROOM)
    }

    /// Whether there is room for one tenant more, which has it from here on.
    pub(super) fn take(&mut self, tenant: &TenantUsage) -> bool {
        // With the comma.
        let size = serde_json::to_vec(tenant).map_or(ROOM, |json| json.len() + 1);
        let left = self.0.checked_sub(size);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use totoro_api::wire::node::SessionUsage;

    use super::*;

    #[test]
    fn as_many_fit_as_there_is_room_for() {
        let tenant = |n: u64| TenantUsage {
            tenant: format!("inv-{n}"),
            sessions: vec![SessionUsage::default(); usize::from(n % 2 == 1)],
            ..TenantUsage::default()
        };
        let mut room = Room::new();
        let fitting = (0..20_000).map(tenant).take_while(|one| room.take(one));
        let fitting: Vec<_> = fitting.collect();
        assert!(fitting.len() < 20_000);
        let size = serde_json::to_vec(&fitting).unwrap().len();
        assert!(size <= ROOM + 1 && ROOM - size < 1024, "{size}");
        assert!(!room.take(&TenantUsage::default()), "nobody after that");
    }
}
