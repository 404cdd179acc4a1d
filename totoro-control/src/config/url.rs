//! What a public URL may be.

/// What is wrong with a public URL; it is quoted into files, so only plain ASCII passes.
pub(super) fn url_problem(url: &str) -> Option<&'static str> {
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    let Some(rest) = rest else {
        return Some("must begin with https:// or http://");
    };
    if rest.is_empty() || rest.starts_with('/') {
        return Some("names no host");
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]".contains(&byte);
    if !rest.bytes().all(plain) || url.len() > 255 {
        return Some("must be scheme, host, port and path only");
    }
    None
}

/// Whether a URL's host is this machine itself.
pub(crate) fn is_loopback_url(url: &str) -> bool {
    let host = url
        .split("//")
        .nth(1)
        .unwrap_or("")
        .split('/')
        .next()
        .unwrap_or("");
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}
