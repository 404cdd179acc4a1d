//! Which methods a path has, for the `Allow` header of 405: warp's rejection does not say. A test
//! asks the server for each.

/// Paths, `*` standing for one segment, and their methods.
const PATHS: &[(&str, &str)] = &[
    ("/healthz", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
    ("/api/v1/oauth/token", "POST"),
    ("/api/v1/frps/auth/handshake", "POST"),
    ("/api/v1/frps/auth/proxy", "POST"),
    ("/api/v1/invites/resolve", "POST"),
    ("/api/v1/invites/usage", "POST"),
    ("/api/v1/public/nodes", "GET, HEAD"),
    ("/api/v1/public/nodes/*/ticket", "POST"),
    ("/api/v1/nodes/enroll", "POST"),
    ("/api/v1/nodes/heartbeat", "POST"),
    ("/api/v1/nodes/applied", "POST"),
    ("/api/v1/nodes/events", "POST"),
    ("/api/v1/nodes/watch", "GET, HEAD"),
    ("/api/v1/nodes/self", "GET, HEAD, PATCH"),
    ("/api/v1/nodes/self/key", "POST"),
    ("/api/v1/admin/nodes", "GET, HEAD, POST"),
    ("/api/v1/admin/nodes/*", "GET, HEAD, PATCH, DELETE"),
    ("/api/v1/admin/backup", "POST"),
    ("/api/v1/admin/tokens", "GET, HEAD, POST"),
    ("/api/v1/admin/tokens/*", "DELETE"),
    ("/api/v1/admin/ticket-keys", "GET, HEAD, POST"),
    ("/api/v1/admin/nodes/*/token", "POST"),
];

/// The same for nodes and admins, below `/api/v1/nodes` and `/api/v1/admin`.
const SHARED: &[(&str, &str)] = &[
    ("/invites", "GET, HEAD, POST"),
    ("/invites/*", "GET, HEAD, PATCH, DELETE"),
    ("/invites/*/rotate", "POST"),
    ("/sessions", "GET, HEAD"),
    ("/sessions/*", "DELETE"),
    ("/bans", "GET, HEAD, POST"),
    ("/bans/*", "DELETE"),
    ("/audit", "GET, HEAD"),
];

/// The methods of a path that is served.
pub(super) fn methods(path: &str) -> Option<&'static str> {
    let shared = path
        .strip_prefix("/api/v1/nodes")
        .or_else(|| path.strip_prefix("/api/v1/admin"));
    let find = |path: &str, paths: &'static [(&str, &str)]| {
        let found = paths.iter().find(|(pattern, _)| fits(path, pattern));
        found.map(|&(_, methods)| methods)
    };
    find(path, PATHS).or_else(|| find(shared?, SHARED))
}

fn fits(path: &str, pattern: &str) -> bool {
    let (mut path, mut pattern) = (path.split('/'), pattern.split('/'));
    loop {
        match (path.next(), pattern.next()) {
            (None, None) => return true,
            (Some(segment), Some(wanted)) if wanted == "*" || segment == wanted => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(methods("/healthz"), Some("GET, HEAD"));
        assert_eq!(methods("/api/v1/admin/nodes/n-1/token"), Some("POST"));
        assert_eq!(methods("/api/v1/nodes/bans/b-1"), Some("DELETE"));
        assert_eq!(methods("/api/v1/admin/bans/b-1"), Some("DELETE"));
        for unknown in [
            "/",
            "/api/v1/nodes",
            "/api/v1/bans",
            "/api/v1/nodes/bans/b/c",
        ] {
            assert_eq!(methods(unknown), None, "{unknown}");
        }
    }
}
