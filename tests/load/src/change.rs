//! From a change of one invite to the event at its node.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::task::JoinSet;
use totoro_api::wire::invite::Invite;

use crate::client::{Call, Connection, Target};
use crate::fleet::Node;
use crate::watch::Board;

/// Lenders that change something at once.
const LENDERS: usize = 4;
/// How long an event may take before it is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an invite's limit is changed to next.
static VALUE: AtomicU32 = AtomicU32::new(5);

/// How long it took, each sorted.
pub(crate) struct Delays {
    /// From when the change was sent.
    pub(crate) sent: Vec<Duration>,
    /// From when its answer was there; zero where the event came first.
    pub(crate) answered: Vec<Duration>,
}

/// Changes so many invites, `rate` per second in all, on nodes picked by chance, and waits for each
/// at its node's watcher.
pub(crate) async fn measure(
    target: &Target,
    nodes: &[Arc<Node>],
    board: &Arc<Board>,
    (count, rate): (usize, f64),
) -> Result<Delays> {
    let mut lenders = JoinSet::new();
    let pause = Duration::from_secs_f64(f64::from(u32::try_from(LENDERS)?) / rate);
    for lender in 0..LENDERS {
        // Each its own nodes: one state is awaited per node at a time.
        let own: Vec<_> = nodes
            .iter()
            .cloned()
            .enumerate()
            .skip(lender)
            .step_by(LENDERS)
            .collect();
        ensure!(!own.is_empty(), "at least {LENDERS} nodes");
        let changes = count / LENDERS + usize::from(lender < count % LENDERS);
        let (target, board) = (target.clone(), Arc::clone(board));
        lenders.spawn(async move {
            let mut connection = target.connect(Ipv4Addr::LOCALHOST).await?;
            let mut delays = Vec::with_capacity(changes);
            for change in 0..changes {
                let next = tokio::time::Instant::now() + pause;
                let (number, node) = &own[change * 7919 % own.len()];
                // Never what it is already: that would be no change.
                let conns = 1 + VALUE.fetch_add(1, Ordering::Relaxed) % 5000;
                delays.push(one(&mut connection, node, (*number, &board), conns).await?);
                tokio::time::sleep_until(next).await;
            }
            Ok::<_, anyhow::Error>(delays)
        });
    }
    let (mut sent, mut answered) = (Vec::new(), Vec::new());
    for delays in lenders.join_all().await {
        for (from_sent, from_answer) in delays? {
            sent.push(from_sent);
            answered.push(from_answer);
        }
    }
    sent.sort();
    answered.sort();
    Ok(Delays { sent, answered })
}

async fn one(
    connection: &mut Connection,
    node: &Node,
    (number, board): (usize, &Board),
    conns: u32,
) -> Result<(Duration, Duration)> {
    let arrival = board.next(number);
    let path = format!("/api/v1/nodes/invites/{}", node.invite);
    let call = Call {
        method: Method::PATCH,
        path: &path,
        key: &node.key,
        headers: &[("if-match", "*"), ("content-type", "application/json")],
        body: Bytes::from(format!(r#"{{"limits":{{"max_conns":{conns}}}}}"#)),
    };
    let sent = Instant::now();
    let changed = connection.call(call, StatusCode::OK).await?;
    let answered = Instant::now();
    let changed: Invite = serde_json::from_slice(&changed)?;
    let arrival = tokio::time::timeout(PATIENCE, arrival).await;
    let (arrived, state) = arrival
        .context("a change did not reach its node")?
        .context("its watcher is lost")?;
    // The event that was awaited is this change's, and nothing else's.
    let there = state.invites.iter().find(|invite| invite.id == changed.id);
    ensure!(
        there.is_some_and(|invite| invite.limits.max_conns == Some(conns)),
        "another event came"
    );
    ensure!(
        !state.snapshot && state.invites.len() == 1,
        "more than what changed came"
    );
    Ok((
        arrived.duration_since(sent),
        arrived.saturating_duration_since(answered),
    ))
}
