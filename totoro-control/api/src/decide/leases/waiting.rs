//! Ports that nobody leases now, and that not everybody may have yet.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A port that nobody leases now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Who had it last.
    pub tenant: Arc<str>,
    /// For which proxy; empty, as no name is: for none.
    pub name: Box<str>,
    /// Of which session.
    #[serde(default)]
    pub run_id: Arc<str>,
    /// Until when it waits for that proxy, Unix ms.
    pub reserved_ms: i64,
    /// Until when no other tenant may have it, Unix ms.
    pub cooling_ms: i64,
}

impl Waiting {
    /// Whether no other tenant may have the port yet.
    pub(super) const fn cools(&self, now_ms: i64) -> bool {
        now_ms < self.cooling_ms
    }

    /// Waits and cools no longer than what a lease leaves that ends now; whether it would have.
    pub(super) fn no_later(&mut self, patience: Patience, now_ms: i64) -> bool {
        let (reserved_ms, cooling_ms) = patience.from(now_ms);
        let is_later = self.reserved_ms > reserved_ms || self.cooling_ms > cooling_ms;
        self.reserved_ms = self.reserved_ms.min(reserved_ms);
        self.cooling_ms = self.cooling_ms.min(cooling_ms);
        is_later
    }
}

/// Ports that may be nobody else's because of a tenant that may have so many proxies: those that it leases,
/// and those that cool down. A restart under other names takes each proxy another port, and who tries out
/// where to be takes some more; without a bound one frpc that moves its proxy on and on would have the
/// whole pool cool down.
pub(in crate::decide) const fn most_kept(max_proxies: u32) -> usize {
    (max_proxies as usize).saturating_mul(2).saturating_add(8)
}

/// How long ports wait and cool, ms.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For their last proxy.
    pub reserve_ms: i64,
    /// After that, for no other tenant.
    pub cool_ms: i64,
}

impl Patience {
    /// Until when a port waits, and cools, whose lease ends now, Unix ms.
    pub(super) const fn from(self, now_ms: i64) -> (i64, i64) {
        let reserved_ms = now_ms + self.reserve_ms;
        (reserved_ms, reserved_ms + self.cool_ms)
    }
}
