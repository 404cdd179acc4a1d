//! The local socket: the operator's commands to a running daemon, with the control plane away too.
//! One JSON line asks, one answers. Its directory is for root only.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use totoro_api::Reason;
use totoro_api::ticket::rfc3339;

use crate::figures::Sources;
use crate::session::model::ALL_PUBLIC;

/// The longest question, bytes.
const MAX_QUESTION: u64 = 4096;
/// The longest answer, bytes.
const MAX_ANSWER: u64 = 16 << 20;
/// A question and its answer are done within this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions at once.
const AT_ONCE: usize = 16;

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// The tenants' ids by their number in the kernel.
    Tenants,
    /// The pool that holds now.
    Pool,
    /// How the daemon is.
    Condition,
    /// The last refusals that the kernel told of one by one, newest first.
    Refused,
    /// The sessions.
    Sessions,
    /// End a session.
    Kick {
        /// Its id.
        session: String,
    },
    /// The bans that hold.
    Bans,
    /// Ban a prefix on this node.
    Ban {
        /// What to ban.
        prefix: IpNet,
        /// For how long, seconds; until lifted when absent. A span needs no clock: this machine's
        /// may not be the control plane's, by which the daemon judges.
        for_s: Option<i64>,
        /// Until when, Unix seconds, where a time was given; it goes over `for_s`, which is what a
        /// daemon of before knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<i64>,
    },
    /// Lift a ban that was made here.
    Unban {
        /// What was banned.
        prefix: IpNet,
    },
}

/// Nobody listens on the local socket.
#[derive(Debug, thiserror::Error)]
#[error("totoro-node does not listen on {0}; is it running?")]
pub struct NotRunning(String, #[source] std::io::Error);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(serde_json::Value),
    Failed(String),
}

/// Listens at `path` and answers for ever.
///
/// # Errors
/// The socket can't be made.
pub fn serve(path: &Path, sources: Arc<Sources>) -> Result<()> {
    let dir = path.parent().context("a socket has a directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("close {} to others", dir.display()))?;
    let listener = bind(path)?;
    tokio::spawn(async move {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let sources = Arc::clone(&sources);
            tokio::spawn(async move {
                let _ = tokio::time::timeout(PATIENCE, answer(stream, sources)).await;
                drop(slot);
            });
        }
    });
    Ok(())
}

/// A unix socket that is its owner's alone, in a directory that is there.
///
/// # Errors
/// The socket can't be made.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
    // Left by a daemon that was killed; a live one holds the state's lock, so it is not here.
    let _ = std::fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("close {} to others", path.display()))?;
    Ok(listener)
}

async fn answer(stream: UnixStream, sources: Arc<Sources>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    (&mut stream)
        .take(MAX_QUESTION)
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str::<Ask>(&line) {
        Ok(ask) => tokio::task::spawn_blocking(move || act(&sources, ask)).await?,
        Err(error) => Err(error.into()),
    };
    let answer = match answer {
        Ok(value) => Answer::Done(value),
        Err(error) => Answer::Failed(format!("{error:#}")),
    };
    let mut text = serde_json::to_string(&answer)?;
    text.push('\n');
    stream.get_mut().write_all(text.as_bytes()).await?;
    Ok(())
}

fn act(sources: &Sources, ask: Ask) -> Result<serde_json::Value> {
    let desk = &sources.desk;
    Ok(match ask {
        Ask::Condition => serde_json::to_value(sources.condition()?)?,
        Ask::Tenants => {
            let mut names: BTreeMap<u32, String> = desk.tenant_names();
            names.insert(ALL_PUBLIC, "public (all together)".to_owned());
            serde_json::to_value(names)?
        }
        Ask::Pool => serde_json::to_value(desk.pool())?,
        Ask::Refused => serde_json::to_value(sources.kernel.samples())?,
        Ask::Sessions => serde_json::to_value(desk.sessions())?,
        Ask::Bans => serde_json::to_value(desk.bans())?,
        Ask::Kick { session } => serde_json::to_value(desk.kick(&session)?)?,
        Ask::Ban {
            prefix,
            for_s,
            until,
        } => {
            let for_s = seconds(for_s, until, sources.clock.now_ms() / 1000)?;
            serde_json::to_value(desk.ban(prefix, for_s)?)?
        }
        Ask::Unban { prefix } => serde_json::to_value(desk.unban(prefix)?)?,
    })
}

/// How long a ban is to hold, seconds.
///
/// # Errors
/// It would be over at once.
fn seconds(for_s: Option<i64>, until: Option<i64>, now: i64) -> Result<Option<i64>> {
    let left = until.map(|at| at.saturating_sub(now)).or(for_s);
    ensure!(
        left.is_none_or(|left| left > 0),
        "{}: the ban would be over at once: by the control plane's clock it is {}; give a later time, \
         or a span, as 1d",
        Reason::RequestMalformed,
        rfc3339(now)
    );
    Ok(left)
}

/// Asks the daemon that listens at `path`.
///
/// # Errors
/// It does not run, does not answer in time, or says why not.
pub async fn ask<T: DeserializeOwned>(path: &Path, ask: &Ask) -> Result<T> {
    let exchange = async {
        let connected = UnixStream::connect(path).await;
        let mut stream = connected.map_err(|error| match error.kind() {
            // It may well run.
            std::io::ErrorKind::PermissionDenied => {
                anyhow!("{}: {error}; ask as root", path.display())
            }
            _ => NotRunning(path.display().to_string(), error).into(),
        })?;
        let mut text = serde_json::to_string(ask)?;
        text.push('\n');
        stream
            .write_all(text.as_bytes())
            .await
            .context("ask the daemon")?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_ANSWER))
            .read_line(&mut line)
            .await
            .context("read its answer")?;
        Ok::<_, anyhow::Error>(line)
    };
    let line = tokio::time::timeout(PATIENCE, exchange)
        .await
        .context("totoro-node does not answer in time")??;
    match serde_json::from_str(&line).context("read the daemon's answer")? {
        Answer::Done(value) => Ok(serde_json::from_value(value)?),
        Answer::Failed(why) => bail!(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_lasts_by_the_control_planes_clock() {
        assert_eq!(seconds(None, None, 100).unwrap(), None);
        assert_eq!(seconds(Some(5), None, 100).unwrap(), Some(5));
        assert_eq!(seconds(Some(5), Some(107), 100).unwrap(), Some(7));
        for (for_s, until) in [(Some(0), None), (Some(5), Some(100))] {
            let said = seconds(for_s, until, 100).unwrap_err().to_string();
            assert!(said.contains("1970-01-01T00:01:40Z"), "{said}");
        }
    }

    #[test]
    fn the_question_of_a_command_of_before_is_understood() {
        let asked = r#"{"ask": "ban", "prefix": "192.0.2.0/24", "for_s": null}"#;
        assert!(matches!(
            serde_json::from_str(asked).unwrap(),
            Ask::Ban {
                for_s: None,
                until: None,
                ..
            }
        ));
    }
}
