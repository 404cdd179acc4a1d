//! The way to the control plane, and its clock.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::StatusCode;
use serde::Deserialize;

use super::{Line, Status};
use crate::config::Config;
use crate::control::{CallError, Control, Silence};

/// How far clocks may be apart: tickets and ends are judged within it, seconds.
const TOLERATED_S: i64 = 60;

pub(super) async fn lines(config: &Config) -> Vec<Line> {
    let target = config.control.clone();
    let control = match Control::with_key_file(&config.control, &config.key_file) {
        Ok(control) => control,
        // The line on the key says why.
        Err(_) => return Vec::new(),
    };
    match control.date_and_self::<Own>().await {
        Ok((date, own)) => vec![
            Line::new(
                "control",
                target.clone(),
                Status::Ok,
                "answers, and knows this node",
            ),
            own.line(&config.node),
            clock(target, date),
        ],
        Err(error) => match error.downcast_ref::<CallError>() {
            Some(error) => vec![Line::new("control", target, status(error), advice(error))],
            None => vec![Line::new(
                "control",
                target,
                Status::Fail,
                format!("{error:#}"),
            )],
        },
    }
}

/// The node that the control plane knows the key as.
#[derive(Deserialize)]
struct Own {
    id: String,
    name: String,
}

impl Own {
    /// Whether it is the one of the settings: by that id the daemon judges tickets.
    fn line(&self, configured: &str) -> Line {
        let Own { id, name } = self;
        Line::must(
            "node",
            configured,
            id == configured,
            "the key is this node's",
            &format!(
                "the key is of node {id} ({name}), so every login would be refused \
                 (ticket_wrong_node): write node = \"{id}\" in node.toml, or name the other's key in \
                 key_file"
            ),
        )
    }
}

/// What the control plane says when it is asked now.
#[derive(Default)]
pub(in crate::cli) struct Said {
    /// Why it answers this node with a refusal, and what to do; `None` where it does not.
    pub(in crate::cli) refusal: Option<String>,
    /// Whether the key is this node's; `None` where it does not tell.
    pub(in crate::cli) node: Option<Line>,
}

/// Asks it.
pub(in crate::cli) async fn said(config: &Config) -> Said {
    let Ok(control) = Control::with_key_file(&config.control, &config.key_file) else {
        // The line on the key says why.
        return Said::default();
    };
    match control.date_and_self::<Own>().await {
        Ok((_, own)) => Said {
            refusal: None,
            node: Some(own.line(&config.node)),
        },
        Err(error) => {
            let error = error.downcast_ref::<CallError>();
            let error = error.filter(|error| status(error) == Status::Fail);
            Said {
                refusal: error.map(advice),
                node: None,
            }
        }
    }
}

const fn status(error: &CallError) -> Status {
    match error {
        // A node enforces without it.
        CallError::Unreachable(..) => Status::Warn,
        _ => Status::Fail,
    }
}

fn advice(error: &CallError) -> String {
    match error {
        CallError::Unreachable(_, cause) => {
            let mut whole = error.to_string();
            let mut from = std::error::Error::source(error);
            while let Some(next) = from {
                whole = format!("{whole}: {next}");
                from = next.source();
            }
            let look = match cause {
                Silence::Nobody(_) => {
                    "`control` in node.toml, name resolution, and a firewall on the way"
                }
                Silence::InFront { .. } => "the control plane behind that address",
            };
            format!(
                "{whole}; the node enforces what it knows, and who comes anew gets no ticket. Look at \
                 {look}"
            )
        }
        CallError::Refused {
            status: StatusCode::UNAUTHORIZED,
            ..
        } => format!(
            "{error}: it does not know this node's key; the node was removed there, or enrolled anew \
             elsewhere: move node.toml away and enrol with a new token (totoro-control node token ID)"
        ),
        CallError::Refused { .. } | CallError::Unreadable(..) => {
            format!("{error}; is `control` in node.toml the control plane's address?")
        }
    }
}

/// Our clock beside its own, which is what counts.
fn clock(target: String, date: Option<i64>) -> Line {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let Some(date) = date else {
        return Line::new("clock", target, Status::Warn, "it does not tell the time");
    };
    let ahead = now - date;
    // The header has whole seconds, and an answer takes its time.
    if ahead.abs() <= 2 {
        return Line::new("clock", target, Status::Ok, "as the control plane's");
    }
    let detail = format!(
        "{} s {} of the control plane's; times are judged by that one, up to {TOLERATED_S} s apart \
         without a word: see that it is synchronised (timedatectl)",
        ahead.abs(),
        if ahead > 0 { "ahead" } else { "behind" }
    );
    let status = match ahead.abs() > TOLERATED_S {
        true => Status::Fail,
        false => Status::Warn,
    };
    Line::new("clock", target, status, detail)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::config::Settings;
    use crate::secret;

    /// The settings of node n1, of a control plane that gives these answers, one after the other; with
    /// none it is away.
    async fn config(dir: &Path, answers: &'static [&'static str]) -> Config {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let given = Settings {
            control: Some(format!("http://{}", listener.local_addr().unwrap())),
            insecure_http: Some(true),
            node: Some("n1".to_owned()),
            ..Settings::default()
        };
        let config = Config::from_settings(given, Settings::default(), dir).unwrap();
        secret::write(Path::new(&config.key_file), "tk1-key").unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                let (status, body) = answer.split_once('|').unwrap_or((answer, ""));
                let length = body.len();
                let whole = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                stream.write_all(whole.as_bytes()).await.unwrap();
            }
        });
        config
    }

    /// What is said to a node whose control plane answers so, or is away.
    async fn said(answers: &'static [&'static str]) -> Said {
        let dir = tempfile::tempdir().unwrap();
        super::said(&config(dir.path(), answers).await).await
    }

    const OF_N1: &str = r#"200 OK|{"id": "n1", "name": "one", "more": 1}"#;
    const OF_N2: &str = r#"200 OK|{"id": "n2", "name": "two", "more": 1}"#;

    #[tokio::test]
    async fn the_key_of_another_node_is_named() {
        for (answers, status, word) in [
            (&[OF_N1], Status::Ok, "this node's"),
            (&[OF_N2], Status::Fail, "node = \"n2\""),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let lines = lines(&config(dir.path(), answers).await).await;
            let line = lines.iter().find(|line| line.component == "node").unwrap();
            assert_eq!((line.status, line.target.as_str()), (status, "n1"));
            assert!(line.detail.contains(word), "{}", line.detail);
            let said = said(answers).await;
            assert_eq!(said.node.unwrap().status, status);
            assert_eq!(said.refusal, None);
        }
        let dir = tempfile::tempdir().unwrap();
        let lines = lines(&config(dir.path(), &["401 Unauthorized"]).await).await;
        assert_eq!((lines.len(), lines[0].status), (1, Status::Fail));
    }

    #[tokio::test]
    async fn only_an_answer_is_a_refusal() {
        let refusal = async |answers| said(answers).await.refusal;
        let to_a_stranger = refusal(&["401 Unauthorized"]).await.unwrap();
        assert!(
            to_a_stranger.contains("enrol with a new token"),
            "{to_a_stranger}"
        );
        assert!(refusal(&["404 Not Found"]).await.is_some());
        assert!(refusal(&["200 OK"]).await.is_some(), "something else");
        assert_eq!(refusal(&["502 Bad Gateway|<html>"]).await, None);
        assert_eq!(refusal(&[OF_N1]).await, None);
        let away = said(&[]).await;
        assert_eq!(away.refusal, None, "nobody is no refusal");
        assert!(away.node.is_none());
    }

    #[tokio::test]
    async fn a_reverse_proxy_with_nobody_behind_it_is_an_outage() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), &["502 Bad Gateway|<html>", "502 Bad Gateway"]).await;
        let lines = lines(&config).await;
        assert_eq!((lines.len(), lines[0].status), (1, Status::Warn));
        let told = &lines[0].detail;
        assert!(told.contains("HTTP 502 Bad Gateway of something"), "{told}");
        assert!(told.ends_with("behind that address"), "{told}");
        let control = Control::with_key_file(&config.control, &config.key_file).unwrap();
        let error = control.date().await.unwrap_err();
        assert_eq!(crate::cli::code(&error), 3, "as where nobody answers");
    }

    #[test]
    fn a_clock_is_judged_by_the_control_planes() {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs() as i64;
        let of = |date| clock("c".to_owned(), date).status;
        assert_eq!(of(Some(now)), Status::Ok);
        assert_eq!(of(Some(now - 30)), Status::Warn);
        assert_eq!(of(Some(now + 3600)), Status::Fail);
        assert!(
            clock("c".to_owned(), Some(now + 3600))
                .detail
                .contains("behind")
        );
        assert_eq!(of(None), Status::Warn);
    }
}
