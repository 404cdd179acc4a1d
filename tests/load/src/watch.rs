//! Nodes that follow their policy, by a stream or by long polls.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use totoro_api::ticket::Revision;
use totoro_api::wire::push::{ALIVE, DesiredState};

use crate::client::{Call, Connection, Target};
use crate::fleet::{Node, post};

/// Watchers that connect at once.
const ARRIVING: usize = 64;
/// How long a poll waits, seconds: `WAIT` in `totoro-node/src/sync/mod.rs`.
const WAIT: u64 = 30;
/// The longest event that is read, bytes.
const MAX_EVENT: usize = 32 << 20;

/// How a node follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum How {
    /// Server-sent events.
    Stream,
    /// One request after the other, each waiting for 30 s.
    Poll,
}

impl How {
    /// How often the server has something to do for a watcher for whom nothing changes: a stream's ping, the end of a
    /// poll. Seconds.
    pub(crate) fn period(self) -> u64 {
        match self {
            How::Stream => ALIVE.as_secs(),
            How::Poll => WAIT,
        }
    }

    /// The shortest time of at least so many seconds in which each watcher costs as often as any other: of a part of a
    /// period, all of them may fall into it, or none.
    pub(crate) fn whole(self, least: u64) -> Duration {
        Duration::from_secs(least.max(1).next_multiple_of(self.period()))
    }
}

/// What arrived, and when.
pub(crate) type Arrival = (Instant, DesiredState);

/// Who waits for a node's next state.
#[derive(Default)]
pub(crate) struct Board {
    waiting: Mutex<HashMap<usize, oneshot::Sender<Arrival>>>,
    /// Watchers that have ended though nobody asked them to, and why the first one did.
    lost: AtomicUsize,
    why: OnceLock<String>,
}

impl Board {
    /// The next state that arrives at this node.
    pub(crate) fn next(&self, node: usize) -> oneshot::Receiver<Arrival> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(node, sender);
        receiver
    }

    fn arrived(&self, node: usize, at: Instant, state: DesiredState) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.remove(&node) {
            let _ = sender.send((at, state));
        }
    }

    /// How many watchers were lost, and why the first one was.
    pub(crate) fn lost(&self) -> (usize, Option<&str>) {
        let why = self.why.get().map(String::as_str);
        (self.lost.load(Ordering::Relaxed), why)
    }
}

/// Watchers, which end when this is dropped.
pub(crate) struct Watchers {
    _tasks: JoinSet<()>,
    pub(crate) board: Arc<Board>,
    /// Until all had been answered.
    pub(crate) connected_in: Duration,
}

/// Each node's whole state once, acknowledged, as after an enrolment; answers where they stand then.
pub(crate) async fn take_over(target: &Target, nodes: &[Arc<Node>]) -> Result<Vec<Revision>> {
    let parts = nodes.chunks(nodes.len().div_ceil(ARRIVING));
    let standing = parts.map(|part| async move {
        let mut connection = target.connect(Ipv4Addr::LOCALHOST).await?;
        let mut stands = Vec::with_capacity(part.len());
        for node in part {
            let call = get("/api/v1/nodes/watch", &node.key, &[]);
            let state: DesiredState =
                serde_json::from_slice(&connection.call(call, StatusCode::OK).await?)?;
            ensure!(state.snapshot, "the first state is no snapshot");
            let has = |id: &str| state.invites.iter().any(|invite| invite.id == id);
            ensure!(has(&node.invite), "an invite is missing");
            let keys: Vec<&str> = state.keys.iter().flatten().map(|key| &*key.kid).collect();
            let at = state.revision;
            let applied = json!({ "gen": at.generation, "rev": at.rev, "keys": keys });
            let call = post("/api/v1/nodes/applied", &node.key, &applied);
            connection.call(call, StatusCode::NO_CONTENT).await?;
            stands.push(at);
        }
        Ok::<_, anyhow::Error>(stands)
    });
    let stands: Vec<Vec<Revision>> = stream::iter(standing)
        .buffered(ARRIVING)
        .try_collect()
        .await?;
    Ok(stands.into_iter().flatten().collect())
}

/// Follows for all nodes, from where they stand; returns once each is known to the server.
pub(crate) async fn all(
    target: &Target,
    nodes: &[Arc<Node>],
    stands: Vec<Revision>,
    how: How,
) -> Result<Watchers> {
    let (began, board) = (Instant::now(), Arc::new(Board::default()));
    let arriving = nodes.iter().zip(stands).enumerate();
    let arriving = arriving.map(|(number, (node, stands))| {
        let (target, node) = (target.clone(), Arc::clone(node));
        async move {
            let mut connection = target.connect(node.from).await?;
            let stream = match how {
                How::Stream => Some(Stream::open(&mut connection, &node, stands).await?),
                How::Poll => None,
            };
            Ok::<_, anyhow::Error>(Watcher {
                number,
                node,
                connection,
                stream,
                stands,
            })
        }
    });
    let watchers: Vec<Watcher> = stream::iter(arriving)
        .buffer_unordered(ARRIVING)
        .try_collect()
        .await?;
    let mut tasks = JoinSet::new();
    for watcher in watchers {
        tasks.spawn(watcher.follow(Arc::clone(&board)));
    }
    if how == How::Poll {
        // Their requests are on the way.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    Ok(Watchers {
        _tasks: tasks,
        board,
        connected_in: began.elapsed(),
    })
}

/// One node's watcher.
struct Watcher {
    number: usize,
    node: Arc<Node>,
    connection: Connection,
    /// None: it polls.
    stream: Option<Stream>,
    stands: Revision,
}

impl Watcher {
    async fn follow(mut self, board: Arc<Board>) {
        loop {
            match self.next().await {
                Ok(Some(state)) => board.arrived(self.number, Instant::now(), state),
                Ok(None) => {}
                Err(error) => {
                    board.lost.fetch_add(1, Ordering::Relaxed);
                    let _ = board.why.set(format!("{error:#}"));
                    return;
                }
            }
        }
    }

    /// The next state; `None` when a poll's time was over.
    async fn next(&mut self) -> Result<Option<DesiredState>> {
        if let Some(stream) = &mut self.stream {
            return stream.next().await.map(Some);
        }
        let Revision { generation, rev } = self.stands;
        let path = format!("/api/v1/nodes/watch?wait={WAIT}s&gen={generation}&rev={rev}");
        let answer = self
            .connection
            .open(get(&path, &self.node.key, &[]))
            .await?;
        if answer.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        ensure!(
            answer.status() == StatusCode::OK,
            "a poll: {}",
            answer.status()
        );
        let body = answer.into_body().collect().await?.to_bytes();
        let state: DesiredState = serde_json::from_slice(&body)?;
        self.stands = state.revision;
        Ok(Some(state))
    }
}

fn get<'a>(path: &'a str, key: &'a str, headers: &'a [(&'static str, &'a str)]) -> Call<'a> {
    Call {
        method: Method::GET,
        path,
        key,
        headers,
        body: Bytes::new(),
    }
}

/// A stream of events, read as far as ours need it: each field on a line, one `data` per event.
struct Stream {
    answer: Response<Incoming>,
    read: Vec<u8>,
}

impl Stream {
    /// Opens one and reads its first line, which comes at once.
    async fn open(connection: &mut Connection, node: &Node, stands: Revision) -> Result<Self> {
        let last = stands.to_string();
        let headers = [("accept", "text/event-stream"), ("last-event-id", &last)];
        let answer = connection
            .open(get("/api/v1/nodes/watch", &node.key, &headers))
            .await?;
        ensure!(
            answer.status() == StatusCode::OK,
            "a stream: {}",
            answer.status()
        );
        let mut stream = Stream {
            answer,
            read: Vec::new(),
        };
        stream.more().await?;
        Ok(stream)
    }

    async fn next(&mut self) -> Result<DesiredState> {
        loop {
            while let Some(end) = self.read.windows(2).position(|end| end == b"\n\n") {
                let rest = self.read.split_off(end + 2);
                let event = std::mem::replace(&mut self.read, rest);
                let lines = event.split(|&byte| byte == b'\n');
                let data = lines.filter_map(|line| line.strip_prefix(b"data:")).next();
                if let Some(data) = data {
                    return Ok(serde_json::from_slice(data)?);
                }
            }
            // Between events nothing is kept for them.
            self.read.shrink_to_fit();
            self.more().await?;
            ensure!(self.read.len() <= MAX_EVENT, "an event is too long");
        }
    }

    async fn more(&mut self) -> Result<()> {
        let Some(frame) = self.answer.body_mut().frame().await else {
            bail!("the stream has ended");
        };
        if let Ok(data) = frame?.into_data() {
            self.read.extend_from_slice(&data);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_periods_are_measured() {
        let seconds = |how: How| [0, 15, 20, 60, 61].map(|least| how.whole(least).as_secs());
        assert_eq!(seconds(How::Stream), [20, 20, 20, 60, 80]);
        assert_eq!(seconds(How::Poll), [30, 30, 30, 60, 90]);
    }
}
