//! How often anyone may ask.

use serde::{Deserialize, Serialize};

/// Requests per minute and address (IPv4) or /64 (IPv6); events per minute and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// `POST /invites/resolve` and `/invites/usage`.
    pub resolve: u32,
    /// `POST /oauth/token`.
    pub token: u32,
    /// `GET /public/nodes` and `POST /public/nodes/{id}/ticket`.
    pub public: u32,
    /// Requests with a wrong key or token: past it a lockout begins that grows.
    pub wrong_key: u32,
    /// Requests with a code that nobody has: the same.
    pub wrong_code: u32,
    /// Events of one node on `POST /nodes/events`: each for every 256 bytes of it that were begun.
    pub events: u32,
}

impl Rates {
    /// The first that cannot hold, and why.
    pub(super) fn problem(&self) -> Option<(&'static str, &'static str)> {
        let Rates {
            resolve,
            token,
            public,
            wrong_key,
            wrong_code,
            events,
        } = *self;
        let all = [
            ("rate.resolve", resolve),
            ("rate.token", token),
            ("rate.public", public),
            ("rate.wrong_key", wrong_key),
            ("rate.wrong_code", wrong_code),
            ("rate.events", events),
        ];
        let (key, _) = all.into_iter().find(|&(_, rate)| rate == 0)?;
        Some((key, "must not be 0"))
    }
}

impl Default for Rates {
    fn default() -> Self {
        // An frpc that is refused asks twice per try and tries every few seconds.
        Rates {
            resolve: 120,
            token: 240,
            public: 240,
            wrong_key: 120,
            wrong_code: 120,
            // 500 a second: one node fills the 4 GiB of the trail in two hours at the least.
            events: 30_000,
        }
    }
}
