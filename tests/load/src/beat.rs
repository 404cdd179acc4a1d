//! Heartbeats: each node's every so often, spread evenly by chance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use hyper::{Method, StatusCode};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use totoro_api::Reason;
use totoro_api::wire::node::{Grade, Heartbeat, InterfaceMetrics};

use crate::client::{Call, Connection, Target};
use crate::fleet::Node;

/// What becomes of a heartbeat's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Connections {
    /// It stays open for the next one: two connections per node, with its stream.
    Kept,
    /// It is closed; each heartbeat has its own. With TLS, sessions are resumed.
    Fresh,
}

/// What was counted.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) answered: AtomicUsize,
    pub(crate) failed: AtomicUsize,
    /// By how much the latest one was late: more than a little means that this generator, and not
    /// the server, was the limit. Milliseconds.
    pub(crate) latest: AtomicU64,
}

/// Beating nodes, which stop when this is dropped.
pub(crate) struct Beats {
    _tasks: JoinSet<()>,
    pub(crate) counts: Arc<Counts>,
}

/// Lets all nodes report every `interval`.
pub(crate) fn all(
    target: &Target,
    nodes: &[Arc<Node>],
    interval: Duration,
    connections: Connections,
) -> Result<Beats> {
    let counts = Arc::new(Counts::default());
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for (number, node) in nodes.iter().enumerate() {
        // Evenly over the interval, neighbours far apart.
        let share = u32::try_from(number * 7919 % nodes.len())?;
        let first = interval * share / u32::try_from(nodes.len())?;
        let beater = Beater {
            body: Bytes::from(serde_json::to_vec(&heartbeat(node))?),
            target: target.apart(),
            node: Arc::clone(node),
            counts: Arc::clone(&counts),
        };
        tasks.spawn(beater.run(began + first, interval, connections));
    }
    Ok(Beats {
        _tasks: tasks,
        counts,
    })
}

struct Beater {
    target: Target,
    node: Arc<Node>,
    body: Bytes,
    counts: Arc<Counts>,
}

impl Beater {
    async fn run(self, mut due: Instant, interval: Duration, connections: Connections) {
        let mut kept = None;
        loop {
            sleep_until(due).await;
            let late = u64::try_from(due.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.counts.latest.fetch_max(late, Ordering::Relaxed);
            match self.beat(kept.take()).await {
                Ok(connection) => {
                    self.counts.answered.fetch_add(1, Ordering::Relaxed);
                    kept = (connections == Connections::Kept).then_some(connection);
                }
                Err(error) => {
                    if self.counts.failed.fetch_add(1, Ordering::Relaxed) == 0 {
                        eprintln!("a heartbeat failed: {error:#}");
                    }
                }
            }
            due += interval;
        }
    }

    async fn beat(&self, kept: Option<Connection>) -> Result<Connection> {
        let mut connection = match kept.filter(|kept| !kept.is_closed()) {
            Some(kept) => kept,
            None => self.target.connect(self.node.from).await?,
        };
        let call = Call {
            method: Method::POST,
            path: "/api/v1/nodes/heartbeat",
            key: &self.node.key,
            headers: &[("content-type", "application/json")],
            body: self.body.clone(),
        };
        connection.call(call, StatusCode::OK).await?;
        Ok(connection)
    }
}

/// A heartbeat as long as a real one of a node without tenants on.
fn heartbeat(node: &Node) -> Heartbeat {
    let interface = |name: &str| InterfaceMetrics {
        name: name.to_owned(),
        ..InterfaceMetrics::default()
    };
    let refused = [Reason::NoLease, Reason::MaxConns, Reason::Surplus];
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    Heartbeat {
        instance: node.instance.clone(),
        boot: node.instance.clone(),
        uptime_s: 86_400,
        agent_version: "0.1.0".to_owned(),
        frps_version: "0.70.1".to_owned(),
        kernel_version: "6.1.0-28-amd64".to_owned(),
        features: words(&[
            "max_conns",
            "max_flows",
            "max_conns_per_source",
            "conn_rate",
            "session_max",
        ]),
        grade: Grade::Kernel,
        cpu_percent: 12.5,
        load1: 0.4,
        mem_total: 2 << 30,
        mem_available: 1 << 30,
        interfaces: vec![interface("eth0"), interface("eth1")],
        tcp_sockets: 120,
        udp_sockets: 12,
        free_ports: BTreeMap::from([("tcp".to_owned(), 1000), ("udp".to_owned(), 1000)]),
        refused: refused
            .iter()
            .map(|reason| (reason.code().to_owned(), 17))
            .collect(),
        ..Heartbeat::default()
    }
}
