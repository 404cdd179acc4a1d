//! The public nodes, measured from here: best first, and why.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;
use totoro_api::frpc::host_port;
use totoro_api::wire::node::{NodeState, PublicNode};

use crate::control::Control;
use crate::error::Error;
use crate::lang::{Lang, say};
use crate::told::clean;

/// How long a connection to a node may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many connections at once.
const AT_ONCE: usize = 32;
/// No more nodes than this are measured: the list is somebody else's.
const MAX_MEASURED: usize = 512;
/// A processor in use to this part, percent, is a busy one.
const BUSY_PERCENT: f32 = 80.0;
/// Fewer free ports than this are few.
const FEW_PORTS: u32 = 5;

/// A node, as it is seen from here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// What the control plane says.
    #[serde(flatten)]
    pub node: PublicNode,
    /// How long a TCP connection to its frps took, milliseconds; `None` where there was none.
    pub latency_ms: Option<f64>,
}

/// What speaks for or against a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing against it.
    Good,
    /// Its processor is busy.
    Busy,
    /// Few ports are free.
    FewPorts,
    /// Something does not work there.
    Degraded,
    /// It takes nothing new, or has no port.
    Closed,
    /// It was not reached from here.
    Unreachable,
    /// It does not serve.
    Off,
}

impl Ranked {
    /// What speaks against it, the gravest.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let node = &self.node;
        let free = node.free();
        match node.state {
            NodeState::Offline | NodeState::Disabled => Verdict::Off,
            _ if self.latency_ms.is_none() => Verdict::Unreachable,
            NodeState::Draining => Verdict::Closed,
            _ if free == 0 => Verdict::Closed,
            NodeState::Degraded => Verdict::Degraded,
            NodeState::Online if free < FEW_PORTS => Verdict::FewPorts,
            NodeState::Online if node.cpu_percent > BUSY_PERCENT => Verdict::Busy,
            NodeState::Online => Verdict::Good,
        }
    }

    /// Why it stands where it does.
    #[must_use]
    pub fn why(&self, lang: Lang) -> String {
        match (self.verdict(), self.node.state) {
            (Verdict::Good, _) => say!(lang, "near and idle", "近且空闲"),
            (Verdict::Busy, _) => say!(lang, "its processor is busy", "处理器繁忙"),
            (Verdict::FewPorts, _) => say!(lang, "few ports are free", "空闲端口少"),
            (Verdict::Degraded, _) => say!(lang, "something fails there", "部分功能异常"),
            (Verdict::Closed, NodeState::Draining) => {
                say!(lang, "takes nothing new", "不接受新的请求")
            }
            (Verdict::Closed, _) => say!(lang, "no port is free", "没有空闲端口"),
            (Verdict::Unreachable, _) => say!(lang, "not reached from here", "从这里无法连接"),
            (Verdict::Off, NodeState::Disabled) => say!(lang, "disabled", "已停用"),
            (Verdict::Off, _) => say!(lang, "offline", "离线"),
        }
    }

    /// Whether a tunnel may begin there.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.verdict() <= Verdict::Degraded
    }

    /// What it costs to use it, for the order: its latency, more where the processor is in use.
    fn cost(&self) -> f64 {
        let latency = self.latency_ms.unwrap_or(f64::MAX);
        latency * (1.0 + f64::from(self.node.cpu_percent.clamp(0.0, 100.0)) / 100.0)
    }

    fn order(&self, other: &Self) -> Ordering {
        let by = self.verdict().cmp(&other.verdict());
        by.then(self.cost().total_cmp(&other.cost()))
            .then(self.node.name.cmp(&other.node.name))
    }
}

/// The nodes in their order, best first.
#[must_use]
pub fn ranked(mut nodes: Vec<Ranked>) -> Vec<Ranked> {
    nodes.sort_by(Ranked::order);
    nodes
}

/// Asks for the list, and measures.
///
/// # Errors
/// The control plane's.
pub async fn measured(control: &Control) -> Result<Vec<Ranked>, Error> {
    let listed = control.public_nodes().await?;
    let mut nodes: Vec<Ranked> = listed.into_iter().map(cleaned).collect();
    let mut work = JoinSet::new();
    let mut next = 0;
    while next < nodes.len().min(MAX_MEASURED) || !work.is_empty() {
        while work.len() < AT_ONCE && next < nodes.len().min(MAX_MEASURED) {
            let (index, addresses) = (next, nodes[next].node.server_addr.clone());
            work.spawn(async move { (index, latency(&addresses).await) });
            next += 1;
        }
        if let Some(Ok((index, latency))) = work.join_next().await {
            nodes[index].latency_ms = latency;
        }
    }
    Ok(ranked(nodes))
}

/// The names of the best other nodes; none where that can't be told.
pub async fn others(control: &Control, than: &str, most: usize) -> Vec<String> {
    let nodes = measured(control).await.unwrap_or_default();
    let others = nodes.iter().filter(|one| one.usable());
    let others = others.filter(|one| one.node.id != than && one.node.name != than);
    others.take(most).map(|one| one.node.name.clone()).collect()
}

/// What others wrote, harmless.
fn cleaned(mut node: PublicNode) -> Ranked {
    for text in [
        &mut node.id,
        &mut node.name,
        &mut node.region,
        &mut node.isp,
        &mut node.abuse_contact,
    ] {
        *text = clean(text);
    }
    node.tags.truncate(16);
    node.tags.iter_mut().for_each(|tag| *tag = clean(tag));
    node.server_addr.retain(|addr| host_port(addr).is_some());
    node.server_addr.truncate(8);
    if !node.cpu_percent.is_finite() {
        node.cpu_percent = 0.0;
    }
    Ranked {
        node,
        latency_ms: None,
    }
}

/// The first address that answers, and how long a connection to it takes.
pub async fn reached(addresses: &[String]) -> Option<(&str, Duration)> {
    for address in addresses {
        let begun = Instant::now();
        let connect = tokio::net::TcpStream::connect(address.as_str());
        if matches!(timeout(PATIENCE, connect).await, Ok(Ok(_))) {
            return Some((address, begun.elapsed()));
        }
    }
    None
}

/// How long a connection to the first address that answers takes, milliseconds.
pub async fn latency(addresses: &[String]) -> Option<f64> {
    let (_, took) = reached(addresses).await?;
    Some(took.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, more: serde_json::Value, latency_ms: Option<f64>) -> Ranked {
        let mut node = json!({
            "id": name, "name": name, "region": "", "isp": "", "tags": [], "server_addr": ["h:1"],
            "state": "online", "grade": "kernel", "unenforced": [], "free_ports": { "tcp": 50 },
            "public_limits": {}, "versions": {}, "cpu_percent": 5.0, "load1": 0.1, "seen_s": 1,
            "abuse_contact": "",
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            node[key] = value.clone();
        }
        let mut ranked = cleaned(serde_json::from_value(node).unwrap());
        ranked.latency_ms = latency_ms;
        ranked
    }

    #[test]
    fn best_first_and_why() {
        let none = || json!({});
        let nodes = ranked(vec![
            node("gone", json!({ "state": "offline" }), Some(1.0)),
            node("mute", none(), None),
            node("drains", json!({ "state": "draining" }), Some(1.0)),
            node(
                "empty",
                json!({ "free_ports": { "tcp": 0, "udp": 0 } }),
                Some(1.0),
            ),
            node("lame", json!({ "state": "degraded" }), Some(1.0)),
            node("tight", json!({ "free_ports": { "tcp": 2 } }), Some(1.0)),
            node("hot", json!({ "cpu_percent": 95.0 }), Some(1.0)),
            node("far", none(), Some(80.0)),
            node("warm", json!({ "cpu_percent": 70.0 }), Some(20.0)),
            node("near", none(), Some(21.0)),
        ]);
        let names: Vec<&str> = nodes.iter().map(|one| one.node.name.as_str()).collect();
        let order = [
            "near", "warm", "far", "hot", "tight", "lame", "drains", "empty", "mute", "gone",
        ];
        assert_eq!(names, order);
        let usable: Vec<bool> = nodes.iter().map(Ranked::usable).collect();
        assert_eq!(
            usable,
            [
                true, true, true, true, true, true, false, false, false, false
            ]
        );
        for one in &nodes {
            assert_ne!(one.why(Lang::En), one.why(Lang::Zh), "{}", one.node.name);
        }
    }

    #[test]
    fn what_others_wrote_is_harmless() {
        let hostile = json!({
            "name": "<b>\u{1b}[2J", "server_addr": ["no address", "h:1"], "tags": vec!["t"; 500],
        });
        let one = node("x", hostile, None);
        assert_eq!(one.node.name, "<b> [2J");
        assert_eq!(one.node.server_addr, ["h:1"]);
        assert_eq!(one.node.tags.len(), 16);
    }
}
