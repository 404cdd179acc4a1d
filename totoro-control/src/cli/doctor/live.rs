//! What the running server says, if there is one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use totoro_api::wire::event::{AuditPage, kind};

use super::Line;
use crate::cli::client::{Client, with_query};
use crate::config::Config;

/// How long the server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A backup older than this is told, days.
const OLD_DAYS: i64 = 7;

/// What was found.
pub(super) struct Live {
    api: String,
    answer: Answer,
    /// When the last backup was begun, or why that is not known.
    backup: Result<Option<String>, String>,
}

/// Who is at the address.
enum Answer {
    Ready,
    NotReady(String),
    /// Nobody; and whether it can be listened on.
    Nobody(Option<std::io::Error>),
}

/// Asks the server at the configured address.
pub(super) async fn ask(config: &Config, api: Option<&str>, token: &Path) -> Live {
    let own = api.is_none();
    let scheme = |tls| if tls { "https" } else { "http" };
    let api = match api {
        Some(api) => api.trim_end_matches('/').to_owned(),
        None => {
            let listen = reachable(config.listen);
            format!("{}://{listen}", scheme(config.tls.is_some()))
        }
    };
    let answer = match probe(&api).await {
        Ok(answer) => answer,
        Err(_) => Answer::Nobody(TcpListener::bind(config.listen).err()),
    };
    // The token travels to this machine itself, or under a certificate that is checked: the
    // public name's.
    let for_admins = match (config.admin_listen, &config.tls) {
        (Some(at), _) if !config.admin_has_tls() => format!("http://{}", reachable(at)),
        (None, Some(_)) if own => config.public_url.clone(),
        _ => api.clone(),
    };
    let backup = match &answer {
        Answer::Nobody(_) => Err("only a running server can tell".to_owned()),
        // The server's own address is reached without leaving this machine.
        _ => last_backup(&for_admins, token, own || config.insecure_http).await,
    };
    Live {
        api,
        answer,
        backup,
    }
}

async fn probe(api: &str) -> Result<Answer, reqwest::Error> {
    // Already installed is fine: it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder()
        .timeout(PATIENCE)
        .no_proxy()
        // Asked by address, which no certificate names; nothing secret is sent. The certificate
        // has a check of its own.
        .tls_danger_accept_invalid_certs(true)
        .build()?;
    let response = http.get(format!("{api}/readyz")).send().await?;
    let status = response.status();
    let text = response.text().await?;
    // Another program on the port would not answer so.
    let ours = status.is_success() && text.contains("\"status\":\"ok\"");
    Ok(match ours {
        true => Answer::Ready,
        false => Answer::NotReady(format!("{status}")),
    })
}

async fn last_backup(api: &str, token: &Path, plain: bool) -> Result<Option<String>, String> {
    let file = token.exists().then_some(token);
    let client = Client::new(api, file, plain).map_err(|error| error.to_string())?;
    let one = |text: &str| Some(text.to_owned());
    let query = [
        ("kind", one(kind::ADMIN_BACKUP)),
        ("newest", one("true")),
        ("limit", one("1")),
    ];
    let page: AuditPage = client
        .get(&with_query("/admin/audit", &query))
        .await
        .map_err(|error| error.to_string())?;
    Ok(page.items.into_iter().next().map(|event| event.at))
}

impl Live {
    /// Whether a server of ours answers.
    pub(super) const fn is_up(&self) -> bool {
        !matches!(self.answer, Answer::Nobody(_))
    }

    pub(super) fn lines(&self, config: &Config) -> Vec<Line> {
        let port = match &self.answer {
            Answer::Ready => Line::ok("port", &self.api, "the server answers and is ready"),
            Answer::NotReady(said) => {
                let detail =
                    format!("it answers {said}: not ready, or not our server; see its log");
                Line::fail("port", &self.api, detail)
            }
            Answer::Nobody(None) => {
                let detail = "free, and no server runs; next: totoro-control serve";
                Line::warn("port", config.listen.to_string(), detail)
            }
            Answer::Nobody(Some(error)) => {
                let detail = format!("cannot be listened on: {error}; see who has it");
                Line::fail("port", config.listen.to_string(), detail)
            }
        };
        let now = time::OffsetDateTime::now_utc();
        vec![port, backup(&self.backup, now)]
    }
}

fn backup(found: &Result<Option<String>, String>, now: time::OffsetDateTime) -> Line {
    let next = "totoro-control backup --out FILE";
    let at = match found {
        Ok(Some(at)) => at,
        Ok(None) => return Line::warn("backup", "none", format!("no trace of one; next: {next}")),
        Err(why) => return Line::warn("backup", "unknown", why.clone()),
    };
    let format = &time::format_description::well_known::Rfc3339;
    match time::OffsetDateTime::parse(at, format) {
        Ok(then) if (now - then).whole_days() >= OLD_DAYS => {
            let days = (now - then).whole_days();
            Line::warn("backup", at, format!("{days} days old; next: {next}"))
        }
        _ => Line::ok("backup", at, "the last one that was taken"),
    }
}

/// Where a client reaches what listens there.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn backups_grow_old() {
        let now = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let ago = |days: i64| {
            let at = 1_800_000_000 - days * 86_400;
            Ok(Some(totoro_api::ticket::rfc3339(at)))
        };
        assert_eq!(backup(&ago(6), now).status, Status::Ok);
        assert_eq!(backup(&ago(7), now).status, Status::Warn);
        assert_eq!(backup(&Ok(None), now).status, Status::Warn);
        assert_eq!(backup(&Err("x".to_owned()), now).detail, "x");
    }

    #[test]
    fn everywhere_is_reached_on_loopback() {
        for (listen, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            let found = reachable(listen.parse().unwrap());
            assert_eq!(found.to_string(), reached);
        }
    }
}
