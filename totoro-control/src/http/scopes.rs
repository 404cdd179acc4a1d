//! What a request needs of an admin's token, by its path: a path that nobody has thought of here
//! needs one that may do everything.

use warp::http::Method;

use crate::app::token::{Area, Need};

/// What the request needs.
pub(super) fn need(method: &Method, path: &str) -> Need {
    if path == "/metrics" {
        return Need {
            area: Area::Figures,
            writes: false,
        };
    }
    let below = path.strip_prefix("/api/v1/admin/").unwrap_or_default();
    let area = match below.split('/').next().unwrap_or_default() {
        "nodes" | "sessions" | "bans" => Area::Nodes,
        "invites" => Area::Invites,
        "audit" => Area::Audit,
        "ticket-keys" => Area::Keys,
        _ => Area::Rest,
    };
    let writes = *method != Method::GET && *method != Method::HEAD;
    Need { area, writes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_needs_everything() {
        let area = |path: &str| need(&Method::GET, path).area;
        assert_eq!(area("/api/v1/admin/nodes/n-1/token"), Area::Nodes);
        assert_eq!(area("/api/v1/admin/invites"), Area::Invites);
        assert_eq!(area("/metrics"), Area::Figures);
        for path in [
            "/api/v1/metrics",
            "/api/v1/admin/tokens",
            "/api/v1/admin/backup",
            "/api/v1/admin/x",
            "",
        ] {
            assert_eq!(area(path), Area::Rest, "{path}");
        }
        assert!(need(&Method::POST, "").writes && !need(&Method::HEAD, "").writes);
    }
}
