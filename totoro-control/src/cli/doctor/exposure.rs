//! Who can read what clients send: TLS, plain HTTP, and the certificate's days.

use super::{Line, chain};
use crate::config::Config;
use crate::http::load_tls;

/// A certificate that ends sooner than this should have been renewed, days.
const LATE_DAYS: i64 = 14;
const DAY_S: i64 = 86_400;

/// Where keys travel in the clear.
pub(super) fn exposure(config: &Config) -> Line {
    let shown = config.public_url.clone();
    let plain = config.public_url.starts_with("http://");
    let beyond = !config.listen.ip().is_loopback();
    match (config.insecure_http, plain, &config.tls) {
        (true, true, _) | (true, _, None) if beyond || plain => {
            let detail = "insecure_http: keys and codes travel in the clear; for closed networks \
                          only, else serve TLS or put a TLS proxy in front, and remove it";
            Line::warn("exposure", shown, detail)
        }
        (_, _, Some(_)) => Line::ok("exposure", shown, "TLS ends here"),
        (_, true, None) => Line::ok("exposure", shown, "plain HTTP on this machine only"),
        (_, false, None) => {
            let detail = format!("TLS ends at the proxy in front of {}", config.listen);
            Line::ok("exposure", shown, detail)
        }
    }
}

/// Certificate and key, where TLS is served here.
pub(super) fn certificate(config: &Config, now: i64) -> Option<Line> {
    let files = config.tls.as_ref()?;
    let shown = files.cert.display().to_string();
    Some(match load_tls(files) {
        Ok(loaded) => days(shown, loaded.expires, now),
        Err(error) => {
            let detail = format!("{}; correct it, then SIGHUP or start", chain(&error));
            Line::fail("certificate", shown, detail)
        }
    })
}

fn days(shown: String, expires: i64, now: i64) -> Line {
    let left = (expires - now).div_euclid(DAY_S);
    let until = totoro_api::ticket::rfc3339(expires);
    match left {
        ..0 => {
            let detail = format!("it ended at {until}: renew it, then SIGHUP the server");
            Line::fail("certificate", shown, detail)
        }
        0..LATE_DAYS => {
            let detail = format!("it ends in {left} days: renew it, then SIGHUP the server");
            Line::warn("certificate", shown, detail)
        }
        LATE_DAYS.. => Line::ok(
            "certificate",
            shown,
            format!("fits its key, which is private, and lasts until {until}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::config::TlsFiles;

    #[test]
    fn plain_http_is_told() {
        let tls = || {
            let (cert, key) = ("c".into(), "k".into());
            Some(TlsFiles { cert, key })
        };
        for (listen, url, insecure_http, tls, status) in [
            (
                "127.0.0.1:1",
                "https://c.example.org",
                false,
                None,
                Status::Ok,
            ),
            ("127.0.0.1:1", "http://127.0.0.1:1", false, None, Status::Ok),
            (
                "10.0.0.1:1",
                "https://c.example.org",
                false,
                tls(),
                Status::Ok,
            ),
            (
                "10.0.0.1:1",
                "https://c.example.org",
                true,
                tls(),
                Status::Ok,
            ),
            (
                "10.0.0.1:1",
                "http://c.example.org",
                true,
                tls(),
                Status::Warn,
            ),
            (
                "10.0.0.1:1",
                "https://c.example.org",
                true,
                None,
                Status::Warn,
            ),
            (
                "127.0.0.1:1",
                "http://c.example.org",
                true,
                None,
                Status::Warn,
            ),
        ] {
            let config = Config {
                insecure_http,
                tls,
                ..Config::new(listen.parse().unwrap(), url.to_owned())
            };
            let found = exposure(&config);
            assert_eq!(found.status, status, "{found:?}");
        }
    }

    #[test]
    fn certificates_end() {
        let at = |expires| days(String::new(), expires, 10 * DAY_S).status;
        assert_eq!(at(10 * DAY_S - 1), Status::Fail);
        assert_eq!(at(10 * DAY_S), Status::Warn);
        assert_eq!(at((10 + LATE_DAYS) * DAY_S), Status::Ok);
    }
}
